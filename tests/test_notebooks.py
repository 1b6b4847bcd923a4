"Notebooks run, are clean, hold no machine's paths, and everything generated from them is in step."
import ast
import json
import re
import sys
from pathlib import Path

import pytest

from conftest import ROOT, copy_project, run

NOTEBOOKS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT/"nbs").rglob("*.ipynb")
                   if not any(part[0] in "._" for part in p.relative_to(ROOT).parts))
RUNNABLE = [name for name in NOTEBOOKS if name != "nbs/index.ipynb"]
MACHINE_PATHS = re.compile(r"(?<![\w./-])/(?:work|tmp|root|home|Users|opt|var/folders)/[\w.]|[A-Z]:\\\\Users")


def outputs(notebook: Path):
    "Cell source and output, for every stored output of a notebook."
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []): yield "".join(cell["source"]), output


def texts(output: dict):
    "The texts of one output: streams, tracebacks and every textual representation."
    yield "".join(output.get("text", []))
    yield "\n".join(output.get("traceback", []))
    for kind, data in output.get("data", {}).items():
        if not kind.startswith("image/") or kind.endswith("xml"): yield data if isinstance(data, str) else "".join(map(str, data))


def fault(output: dict) -> str:
    """What an output tells of a failure that stops no runner, empty when all is well: errors while a figure or a rich output is drawn
    end in a callback's message, in a figure without a picture, or in an object shown by its address."""
    shown = "\n".join(texts(output))
    if output["output_type"] == "error" or re.search(r"Traceback \(most recent call last\)|Error in callback", shown): return shown[-2000:]
    if "<Figure size" in shown and not any(kind.startswith("image/") for kind in output.get("data", {})): return f"a figure that was not drawn: {shown[:200]}"
    if found := re.search(r".* at 0x[0-9a-f]{6,}.*", shown): return f"an object without a representation: {found[0][:200]}"
    return ""


def execute(notebook: str, project: Path) -> str:
    "Run a notebook with nbdev's runner, which knows the directives, storing its outputs; the report, empty when all is well."
    done = run("nbdev-test", notebook, "--save", "--cell-timeout", "600", cwd=project, timeout=900)
    if done.returncode: return done.stdout[-6000:]
    return "\n".join(f"in the cell\n{source}\nthe output is\n{fault(output)}" for source, output in outputs(project/notebook) if fault(output))


@pytest.mark.parametrize("notebook", RUNNABLE)
def test_notebook_runs_at_smoke_scale(notebook, scratch):
    report = execute(notebook, scratch)
    assert not report, f"{notebook} failed at smoke scale:\n{report}"


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory) -> Path:
    "A copy of the project after nbdev-clean, nbdev-export and the README script."
    project = copy_project(tmp_path_factory.mktemp("regenerated")/"tokenstudy")
    for command in (["nbdev-clean"], ["nbdev-export"], [sys.executable, "docs/readme.py"]):
        done = run(*command, cwd=project)
        assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-4000:]}"
    return project


def files(root: Path, pattern: str) -> dict:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.glob(pattern)) if not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts)}


@pytest.mark.parametrize("pattern, way_out", [
    ("tokenstudy/**/*.py", "these modules are not what their notebooks export: make export"),
    ("nbs/**/*.ipynb", "these notebooks are not clean: make export"),
    ("nbs/images/index_*", "the pictures of README.md are not those of nbs/index.ipynb: make export"),
    ("README.md", "README.md is not what nbs/index.ipynb makes: make export")])
def test_generated_files_are_in_step(regenerated, pattern, way_out):
    here, made = files(ROOT, pattern), files(regenerated, pattern)
    assert sorted(name for name in here.keys() | made.keys() if here.get(name) != made.get(name)) == [], way_out


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_no_stored_output_names_a_place_of_one_machine(notebook):
    found = [text[max(0, m.start() - 60):m.end() + 60] for _, output in outputs(ROOT/notebook) for text in texts(output) for m in MACHINE_PATHS.finditer(text)]
    assert found == []


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_no_stored_output_hides_a_failure(notebook):
    assert [fault(output) for _, output in outputs(ROOT/notebook) if fault(output)] == []


@pytest.mark.parametrize("code, report", [
    ("1/0", "ZeroDivisionError"),
    ("import matplotlib.pyplot as plt", ""),
    ("import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.set_title('$\\\\no{$');", "callback"),
    ("class Broken:\n    def _repr_html_(self): raise RuntimeError('no page')\nBroken()", "without a representation")])
def test_the_runner_sees_what_fails(tmp_path, code, report):
    "Injected failures, those while drawing included, do not pass for a success."
    (tmp_path/"nbs").mkdir()
    (tmp_path/"pyproject.toml").write_text((ROOT/"pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "source": code, "outputs": [], "execution_count": None}
    nb = {"cells": [cell], "metadata": {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path/"nbs/broken.ipynb").write_text(json.dumps(nb), encoding="utf-8")
    found = execute("nbs/broken.ipynb", tmp_path)
    assert (report in found) if report else found == ""


def imports(source: str) -> set:
    "Modules of this package that a piece of Python imports."
    found = set()
    for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "pass", source, flags=re.MULTILINE))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tokenstudy":
            found |= {f"{node.module}.{name.name}" for name in node.names} | {node.module}
        elif isinstance(node, ast.Import): found |= {name.name for name in node.names}
    return found


def misplaced(order: list, sources: dict) -> list:
    "Imports that go down the reading order, or sideways to another paper; together and the command line alone see all."
    wrong = []
    for place, (name, module) in enumerate(order):
        if name == "91_cli" or name.split("/")[0] in ("together", "app"): continue
        later = {m for _, m in order[place + 1:]} | {m for n, m in order if "/" in name and "/" in n and n.split("/")[0] != name.split("/")[0]}
        wrong += sorted((name, m) for m in imports(sources[name]) & later)
    return wrong


def test_imports_go_up_the_reading_order():
    index = json.loads((ROOT/"nbs/index.ipynb").read_text(encoding="utf-8"))
    table = "".join("".join(c["source"]) + "\n" for c in index["cells"] if c["cell_type"] == "markdown")
    order = re.findall(r"^\| \[(\S+)\]\(\S+\.ipynb\) \| `(\S+)`", table, flags=re.MULTILINE)
    there = {str(p.relative_to(ROOT/"nbs").with_suffix("")) for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    assert {name for name, _ in order} == there - {"index"}
    def code(name): return "\n".join("".join(c["source"]) for c in json.loads((ROOT/f"nbs/{name}.ipynb").read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code")
    assert misplaced(order, {name: code(name) for name, _ in order}) == []
    toy = [("00_a", "tokenstudy.a"), ("x/01_b", "tokenstudy.x.b"), ("y/01_c", "tokenstudy.y.c"), ("91_cli", "tokenstudy.cli")]
    sources = {"00_a": "from tokenstudy.x import b", "x/01_b": "from tokenstudy import a", "y/01_c": "import tokenstudy.x.b\n%load x", "91_cli": "from tokenstudy.y.c import z"}
    assert misplaced(toy, sources) == [("00_a", "tokenstudy.x.b"), ("y/01_c", "tokenstudy.x.b")]
