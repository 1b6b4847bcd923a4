"""Every notebook at gpu scale, with the settings that `cuts.json` cuts and the models that it would load there, on a pretend card in bf16 (`dry.py`).
All run in one process of their own, a fork for each notebook. Those that train the language model, or ask it most often, get 2 of its 30 layers."""
import json
import sys

import pytest

from conftest import ROOT, run

sys.path.append(str(ROOT/"tests"/"device"))
from dry import with_gpu_scale

CUTS = json.loads((ROOT/"tests"/"device"/"cuts.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def answers() -> dict:
    "notebook -> what became of it."
    done = run(sys.executable, ROOT/"tests"/"device"/"dry.py", "--card", *CUTS, cwd=ROOT, OMP_NUM_THREADS="1", timeout=1800)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"notebook"')]
    assert done.returncode == 0, done.stdout[-4000:]
    return {line["notebook"]: line["failed"] for line in lines}


@pytest.mark.parametrize("notebook", CUTS)
def test_notebook_runs_on_a_card(answers, notebook): assert answers[notebook] == ""


def test_every_notebook_with_a_gpu_scale_has_cuts(): assert with_gpu_scale() == sorted(CUTS)
