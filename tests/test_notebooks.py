"Notebooks are clean, hold no machine's paths, and everything generated from them is in step; their runner sees what fails."
import ast
import json
import re
import sys
from pathlib import Path

import pytest

from conftest import ROOT, copy_project, run
from runner import execute, fault, outputs, texts
from tree import NOTEBOOKS

MACHINE_PATHS = re.compile(r"(?<![\w./-])/(?:work|tmp|root|home|Users|opt|var/folders)/[\w.]|[A-Z]:\\\\Users")


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory) -> Path:
    "A copy of the project after nbdev-clean, nbdev-export and the README script."
    project = copy_project(tmp_path_factory.mktemp("regenerated")/"tokenstudy")
    for command in (["nbdev-clean"], ["nbdev-export"], [sys.executable, "docs/doors.py"], [sys.executable, "docs/readme.py"]):
        done = run(*command, cwd=project)
        assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout[-4000:]}"
    return project


def files(root: Path, pattern: str) -> dict:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.glob(pattern)) if not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts)}


@pytest.mark.parametrize("pattern, way_out", [
    ("tokenstudy/**/*.py", "these modules are not what their notebooks export: make export"),
    ("tokenstudy/**/*.pyi", "these typed front doors are not those of the modules: make export"),
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
    ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "ended with -9"),
    ("import sys\nsys.exit(3)", "SystemExit"),
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


FOLDERS = ("core", "lm", "reasoning", "multidraft", "brat", "cdpo", "tvm", "together", "app")
PAPERS = ("multidraft", "brat", "cdpo", "tvm")
EXCEPTIONS = {("nbs/core/10_training.ipynb", "core.show"): "a lesson draws its schedules", ("nbs/core/11_statistics.ipynb", "core.show"): "a lesson shows a table",
              ("nbs/core/06_identity.ipynb", "core.statistics"): "a specimen whose code is hashed",
              ("nbs/lm/07_memory.ipynb", "lm.finetuning"): "its measurement makes models that learn",
              ("nbs/multidraft/01_why.ipynb", "multidraft.optimal"): "its last number looks ahead",
              ("nbs/tvm/07_candidates.ipynb", "tvm.policies"): "its numbers come from a search",
              ("nbs/multidraft/04_optimal.ipynb", "multidraft.acceptance"): "a panel that plays with the schemes of the experiment"}


def module_of(notebook: str) -> str:
    "nbs/multidraft/04_optimal.ipynb -> multidraft.optimal"
    return re.sub(r"\b\d+_", "", notebook.removeprefix("nbs/").removesuffix(".ipynb")).replace("/", ".")


def imports(source: str, doors: dict) -> set:
    "Modules of this package (without its name) that a piece of Python imports or reaches through a package's front door."
    found, aliases = set(), {}
    tree = ast.parse(re.sub(r"^[ \t]*[%!].*$", "pass", source, flags=re.MULTILINE))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tokenstudy":
            package = node.module.partition(".")[2]
            for name in node.names:
                if not package: aliases[name.asname or name.name] = name.name
                found |= {package, ".".join(filter(None, (package, name.name))), doors.get(package, {}).get(name.name, package)}
        elif isinstance(node, ast.Import): found |= {name.name.partition(".")[2] for name in node.names if name.name.startswith("tokenstudy.")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            package = aliases[node.value.id]
            if node.attr in doors.get(package, {}): found.add(doors[package][node.attr])
    return found


def front_doors(root: Path) -> dict:
    "package -> name -> module, as the packages' `__init__` tell."
    found = {}
    for folder in FOLDERS:
        file = root/"tokenstudy"/folder/"__init__.py"
        if not file.exists(): continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "submod_attrs":
                found[folder] = {name: f"{folder}.{module}" for module, names in ast.literal_eval(node.value).items() for name in names}
    return found


def misplaced(sources: dict, doors: dict) -> list:
    "Imports that go down the reading order, or sideways to another paper. `sources` maps notebooks, in reading order, to their code."
    wrong, order = [], [module_of(name) for name in sources]
    for place, (name, source) in enumerate(sources.items()):
        here = order[place].split(".")[0]
        if here == "app": continue
        later = set(order[place + 1:])
        sideways = {m for m in order if m.split(".")[0] in PAPERS and m.split(".")[0] != here} if here in PAPERS else set()
        wrong += sorted((name, m) for m in imports(source, doors) & (later | sideways))
    return wrong


def code(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


def exported_code(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join(source for c in cells if c["cell_type"] == "code" and re.search(r"^#\|[ \t]*export", source := "".join(c["source"]), re.MULTILINE))


def test_imports_go_up_the_reading_order():
    order = sorted((name for name in NOTEBOOKS if name.count("/") == 2), key=lambda name: (FOLDERS.index(name.split("/")[1]), name))
    lessons = [name for name in order if not name.endswith("00_overview.ipynb")]
    found = misplaced({name: code(ROOT/name) for name in lessons}, front_doors(ROOT))
    assert sorted(found) == sorted(EXCEPTIONS)      # an exception that is not needed any more fails as well
    exported = {name: exported_code(ROOT/name) for name in lessons}
    assert misplaced(exported, front_doors(ROOT)) == []


def test_an_import_down_or_sideways_is_found():
    sources = {"nbs/core/01_a.ipynb": "from tokenstudy.core.b import x", "nbs/core/02_b.ipynb": "from tokenstudy.core import a\nfrom tokenstudy import lm as lms\nlms.load",
               "nbs/lm/01_models.ipynb": "import tokenstudy.core.a\n%load x", "nbs/brat/01_c.ipynb": "from tokenstudy.cdpo.d import y", "nbs/cdpo/01_d.ipynb": "from tokenstudy.core import z",
               "nbs/app/01_e.ipynb": "from tokenstudy.cdpo.d import y"}
    doors = {"lm": {"load": "lm.models"}, "core": {"z": "core.a"}}
    assert misplaced(sources, doors) == [("nbs/core/01_a.ipynb", "core.b"), ("nbs/core/02_b.ipynb", "lm.models"), ("nbs/brat/01_c.ipynb", "cdpo.d")]
