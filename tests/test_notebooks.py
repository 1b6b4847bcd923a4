"Notebooks run, are clean, hold no machine's paths, and everything generated from them is in step."
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
