"The notebooks of the project."
from conftest import ROOT

NOTEBOOKS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT/"nbs").rglob("*.ipynb")
                   if not any(part[0] in "._" for part in p.relative_to(ROOT).parts))


def in_folder(name: str) -> list:
    "Those of one folder, `root` for those in none; README's source is run by its own test."
    place = {"root": 2}.get(name, 3)
    return [n for n in NOTEBOOKS if n.count("/") == place - 1 and (place == 2 or n.split("/")[1] == name) and n != "nbs/index.ipynb"]
