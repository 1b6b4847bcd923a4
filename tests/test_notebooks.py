"Notebooks run, are clean, hold no machine's paths, and everything generated from them is in step."
import json
import re
import subprocess
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


def execute(notebook: str, project: Path) -> str:
    "Run a notebook with nbdev's runner, which knows the directives, storing its outputs; the report, empty when all is well."
    done = run("nbdev-test", notebook, "--save", "--cell-timeout", "600", cwd=project, timeout=900)
    if done.returncode: return done.stdout[-6000:]
    # what fails while a figure or a rich output is drawn lands in the output and does not stop the runner
    faults = [f"in the cell\n{source}\nthe output shows\n{text[-2000:]}" for source, output in outputs(project/notebook) for text in texts(output)
              if "Traceback (most recent call last)" in text or output["output_type"] == "error"]
    return "\n".join(faults)


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


def files(root: Path, folder: str, pattern: str) -> dict:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted((root/folder).rglob(pattern))
            if "__pycache__" not in p.parts and ".ipynb_checkpoints" not in p.parts}


@pytest.mark.parametrize("folder, pattern, way_out", [
    ("tokenstudy", "*.py", "these modules are not what their notebooks export: make export"),
    ("nbs", "*.ipynb", "these notebooks are not clean: nbdev-clean"),
    ("nbs/images", "index_*", "the pictures of README.md are not those of nbs/index.ipynb: make export"),
    (".", "README.md", "README.md is not what nbs/index.ipynb makes: make export")])
def test_generated_files_are_in_step(regenerated, folder, pattern, way_out):
    here, made = files(ROOT, folder, pattern) if folder != "." else {}, files(regenerated, folder, pattern) if folder != "." else {}
    if folder == ".": here, made = {pattern: (ROOT/pattern).read_bytes()}, {pattern: (regenerated/pattern).read_bytes()}
    assert sorted(name for name in here.keys() | made.keys() if here.get(name) != made.get(name)) == [], way_out


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_no_stored_output_names_a_place_of_one_machine(notebook):
    found = [text[max(0, m.start() - 60):m.end() + 60] for _, output in outputs(ROOT/notebook) for text in texts(output) for m in MACHINE_PATHS.finditer(text)]
    assert found == []


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_no_stored_output_is_an_error(notebook):
    assert [text[-500:] for _, output in outputs(ROOT/notebook) for text in texts(output)
            if output["output_type"] == "error" or "Traceback (most recent call last)" in text] == []
