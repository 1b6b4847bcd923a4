"Builders of weights, pairs from texts and from samples, the review of pairs, batches."
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, strategies as st

from tokenstudy import lm as lms, reasoning
from tokenstudy.cdpo import weights as W
from tokenstudy.cdpo.contrast import token_signals
from tokenstudy.cdpo.weights import PreferenceDataError
from cdpo.toys import THREE, batch_of, pairs, toy


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
        with pytest.raises(PreferenceDataError): W.weights_from_scores(bad)


def test_preference_keep_end_cuts_weights_as_ids():
    row = dict(prompt_ids=[1, 4, 5], chosen_ids=[6, 7, 2], rejected_ids=[8, 9, 10, 2], rejected_weights=[.1, .2, .3, .4])
    batch = batch_of([row], max_length=3, truncation_mode="keep_end")
    assert batch["input_ids"][1].tolist() == [9, 10, 2] and torch.allclose(batch["token_weights"][1], torch.tensor([.2, .3, .4]))


def sampled(problem, answer, correct, response, finished=True):
    return SimpleNamespace(problem=problem, answer=answer, correct=correct, finished=finished, prompt_ids=[1, 5], response_ids=response)


def test_comparison_of_preference_pairs_are_of_the_most_frequent_answers():
    some = [sampled("a", "7", True, [7, 2]), sampled("a", "3", False, [3, 2]), sampled("a", "4", False, [4, 2]), sampled("a", "4", False, [4, 4, 2]),
            sampled("b", "1", True, [6, 2]), sampled("c", "1", False, [6, 2]), sampled("c", None, False, [9, 2]), sampled("c", "2", True, [6, 2], False)]
    seen = set()
    for seed in range(8):
        made, counts = W.pairs_from_samples(some, seed)
        assert made["problem"][:] == ["a"] and made["chosen_ids"][0] == [7, 2]
        assert counts == dict(problems=3, pairs=1, no_right=1, no_wrong=1, without_answer=1, unfinished=1)
        seen.add(tuple(made["rejected_ids"][0]))
        assert list(W.pairs_from_samples(some[:4], seed)[0]["rejected_ids"]) == list(made["rejected_ids"])
    assert seen == {(4, 2), (4, 4, 2)}
    with pytest.raises(PreferenceDataError, match="no problem has both a correct"): W.pairs_from_samples(some[4:])


def test_comparison_of_preference_first_difference_is_the_true_mistake():
    problems = reasoning.arithmetic(20, seed=1)
    for row in reasoning.faulty_solutions(problems, 3, seed=1):
        right = next(p["solution"] for p in problems if p["id"] == row["problem"])
        assert W.first_difference(reasoning.words(row["response"]), reasoning.words(right)) == row["mistake"]
