"What the tests of the drawn world share: fresh creatures, and the embedded models as fixtures."
import random

import pytest
from hypothesis import strategies as st

from tokenstudy.brat.world import ATTRIBUTES, random_creature, render
from tokenstudy.brat.bases import BASES, load_base
from tokenstudy.brat.instruments import load_contrast, load_reader


FRESH = 10**6 # the trainings' seeds are smaller

CREATURES = st.fixed_dictionaries({k: st.sampled_from(v) for k, v in ATTRIBUTES.items()})


def fresh(i, **fixed): return random_creature(random.Random(str(FRESH + i)), **fixed)
def drawn(i, size=32): return render(fresh(i), size, seed=str(FRESH + i))


@pytest.fixture(scope="module")
def reader(): return load_reader("cpu")


@pytest.fixture(scope="module")
def contrast(): return load_contrast("cpu")


@pytest.fixture(scope="module")
def bases(): return {name: load_base(name, "cpu") for name in BASES}
