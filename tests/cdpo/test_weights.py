"Builders of weights."
import math
import warnings

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, strategies as st

from tokenstudy import reasoning
from tokenstudy.cdpo import weights as W
from tokenstudy.cdpo.pairs import PreferenceDataError
from cdpo.toys import pairs


numbers = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(numbers, st.integers(0, 99))
def test_preference_controls_keep_the_mass(weights, seed):
    shuffled, constant = W.shuffled_weights(weights, seed), W.constant_weights(weights)
    assert sorted(shuffled) == sorted(weights) and shuffled == W.shuffled_weights(weights, seed)
    assert sum(constant) == pytest.approx(sum(weights), abs=1e-9) and len(set(constant)) == 1
    assert W.weights_from_scores(weights) == pytest.approx([1 - s for s in weights])


@given(numbers)
def test_preference_weights_from_rollouts(rates):
    weights = W.weights_from_rollouts(rates)
    assert len(weights) == len(rates) - 1 and all(0 <= w <= 1 for w in weights)
    if all(a >= b for a, b in zip(rates, rates[1:])): assert math.prod(1 - w for w in weights) == pytest.approx(rates[-1]/rates[0] if rates[0] else 1, abs=1e-6)


def test_preference_oracle_and_reweighting():
    data = pairs(4).add_column("first_mistake", [0, 1, 2, 1])
    assert [w.index(1) for w in W.reweighted(data, "oracle")["rejected_weights"]] == [0, 1, 2, 1]
    again = [W.reweighted(data, "shuffled", seed=s)["rejected_weights"] for s in (0, 0, 1)]
    assert list(again[0]) == list(again[1]) != list(again[2])
    assert list(W.reweighted(data, "same")["rejected_weights"]) == list(data["rejected_weights"])
    with pytest.raises(ValueError, match="kind is"): W.reweighted(data, "none")
    with pytest.raises(PreferenceDataError, match="no token 3"): W.oracle_weights(3, 3)
    for bad in ([.5, math.inf], "ab", [[.1]], None):
        with pytest.raises(ValueError, match="^scores"): W.weights_from_scores(bad)
        with pytest.raises(ValueError, match="^rates"): W.weights_from_rollouts(bad)


def test_comparison_of_preference_first_difference_is_the_true_mistake():
    problems = reasoning.arithmetic(20, seed=1)
    for row in reasoning.faulty_solutions(problems, 3, seed=1):
        right = next(p["solution"] for p in problems if p["id"] == row["problem"])
        assert W.first_difference(reasoning.words(row["response"]), reasoning.words(right)) == row["mistake"]


# ---- details that a mutant of the module has lost

def refused(call, *words):
    with pytest.raises(PreferenceDataError) as error: call()
    assert str(error.value).startswith(words[0]) and all(word in str(error.value) for word in words), error.value


def test_preference_weights_from_rollouts_by_hand():
    for rates, weights in (([.5], []), ([.8, .8, .4, 0], [0, .5, 1]), ([0, 0, 0], [0, 0]), ([.5, .75, .25], [0, 2/3]), ([0, .5, .25], [0, .5]), ([1, .25], [.75])):
        assert W.weights_from_rollouts(rates) == pytest.approx(weights)


def test_preference_simple_weights_by_hand():
    assert W.oracle_weights(3, 1, .5) == [0, .5, 0] and W.oracle_weights(2, 0) == [1, 0] and W.oracle_weights(2, 1) == [0, 1]
    for place in (2, 9): refused(lambda: W.oracle_weights(2, place), f"there is no token {place} in a response of 2 tokens")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert W.constant_weights([]) == []
    assert W.constant_weights([.25, .75]) == [.5, .5]
    w = [.1, .2, .3, .4, .5]
    assert W.shuffled_weights(w, 3) == [w[i] for i in np.random.default_rng(3).permutation(5)]
    for given, correct, place in (("ab", "ab", None), ("a", "ab", None), ("abc", "ab", 2), ("ax", "ab", 1), ("", "a", None), ("xb", "ab", 0)):
        assert W.first_difference(list(given), list(correct)) == place


def test_preference_reweighting_row_by_row():
    data = Dataset.from_list([dict(id=i, rejected_weights=[.25, .75, .5 + i/10], places=i, mine=[.1*i]*3, first_mistake=2 - i) for i in range(3)])
    rows = [list(row) for row in data["rejected_weights"]]
    want = dict(same=rows, ones=[[1, 1, 1]]*3, constant=[W.constant_weights(row) for row in rows], mine=[row for row in data["mine"]],
                shuffled=[W.shuffled_weights(row, [0, i]) for i, row in enumerate(rows)], oracle=[W.oracle_weights(3, 2 - i) for i in range(3)])
    for kind, weights in want.items():
        made = W.reweighted(data, kind)
        assert [list(row) for row in made["rejected_weights"]] == [list(row) for row in weights] and made["id"][:] == [0, 1, 2]
        assert sorted(made.column_names) == sorted(data.column_names)
    assert W.reweighted(data, "oracle", place="places")["rejected_weights"][2] == [0, 0, 1]
    assert W.reweighted(data, "shuffled", 5)["rejected_weights"][1] == W.shuffled_weights(rows[1], [5, 1])
    with pytest.raises(ValueError, match="^kind is 'absent'; it must be one of same, ones, shuffled, constant, oracle, or a column"): W.reweighted(data, "absent")
    shadow = data.add_column("ones", [[.5]*3]*3)                  # the word keeps its meaning
    assert W.reweighted(shadow, "ones")["rejected_weights"][0] == [1, 1, 1]
