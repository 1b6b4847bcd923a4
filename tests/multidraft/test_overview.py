"The front door: its names are there, and the mathematics needs neither torch nor the language models."
import subprocess
import sys

import pytest

from tokenstudy import multidraft

HEAVY = ("torch", "transformers", "tokenstudy.lm", "matplotlib")


def imported(code: str) -> list[str]:
    "Which of the heavy modules a fresh interpreter holds after running `code`."
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"],
                          capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_mathematics_is_light():
    assert imported("from tokenstudy.multidraft import Optimal, optimal_acceptance, acceptance_lp, exact_distribution\n"
                    "optimal_acceptance([.5, .5], [[.2, .8]] * 2)\nacceptance_lp([.5, .5], [[.2, .8]] * 2)") == []


def test_the_check_sees_what_is_heavy():
    assert "torch" in imported("from tokenstudy.multidraft import LMDraft")


@pytest.mark.parametrize("name", multidraft.__all__)
def test_every_name_of_the_door_opens(name):
    assert getattr(multidraft, name) is not None and name in dir(multidraft)
