"""The library on a pretend card (`pretend.py`): the same results as on the CPU, no mixing of devices, and bounds on how often the host waits in each
step. torch is patched as a whole, so all of it runs in a process of its own, a fork for each area (`run_card.py`)."""
import json
import sys

import pytest

from conftest import ROOT, run

#: loop -> the most often that the host may wait for the card in one step. Lower a number when a loop got better.
WAITS = dict(
    sample=.5,               # each decoded token: whether rows have ended, every fourth token
    rollouts_many=10,        # each token of a wave: what was drawn, what to keep, the cache's next rows
    multidraft=8,            # each target call with K = 3, L = 3: a level of the draft, what selection needs, and the clock's events
    tree_search=16,          # each step of two tokens: draws, values, rows that go on
    identify_trajectory=100, # each trajectory of three tokens, 16 samples, at most 8 tokens
    fine_tune=7,             # each step of one batch: loss, masks, a check that gradients are finite
    train_verifier=14,       # each step of one batch: masks of labels, sums for the log
    train_preferences=4)     # each step: padding, the log

AREAS = ("lm", "reasoning", "multidraft", "cdpo", "tvm", "brat")


@pytest.fixture(scope="module")
def answers() -> dict:
    "area -> check -> what was found; one process for all, since half of the time is imports."
    areas = (*AREAS, "loops", "faults")
    done = run(sys.executable, ROOT/"tests"/"device"/"run_card.py", *areas, cwd=ROOT, OMP_NUM_THREADS="1", timeout=900)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"area"')]
    assert done.returncode == 0 and [line["area"] for line in lines if line.get("done") == 0] == list(areas), done.stdout[-4000:]
    return {area: {line["name"]: line for line in lines if line["area"] == area and "name" in line} for area in areas}


@pytest.mark.parametrize("area", AREAS)
def test_paths_on_the_card_do_as_on_the_cpu(answers, area):
    assert answers[area] and {name: line["failed"] for name, line in answers[area].items() if line["failed"]} == {}


@pytest.mark.parametrize("loop", WAITS)
def test_a_step_waits_for_the_card_no_more_often_than_allowed(answers, loop):
    found = answers["loops"][loop]
    assert not found["failed"]
    seen = found["seen"]
    assert 0 <= seen["waits"] <= WAITS[loop], seen["lines"]


def test_every_loop_has_a_bound(answers): assert sorted(answers["loops"]) == sorted(WAITS)


def test_faults_are_seen_and_torch_is_as_before(answers):
    found = answers["faults"]
    said = {name: line["failed"] for name, line in found.items()}
    for fault in ("cpu_tensor_left", "cpu_tensor_in_sample"): assert "same device" in said[fault]
    assert "to numpy" in said["numpy_on_card"] and "'cuda' device type for generator" in said["generator_of_cpu"]
    assert found["one_item_more"]["seen"]["waits"] > .5   # a step that is run without a look is one of four
    assert found["restored"]["seen"]["restored"]
