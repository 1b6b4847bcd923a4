"Pairs from texts and from samples, their review, batches."
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from tokenstudy.cdpo import pairs as P, weights as W
from tokenstudy.cdpo.pairs import PreferenceDataError
from cdpo.toys import batch_of


# ---- details that a mutant of the module has lost

def refused(call, *words):
    with pytest.raises(PreferenceDataError) as error: call()
    assert str(error.value).startswith(words[0]) and all(word in str(error.value) for word in words), error.value


def kinds(prompt, chosen, rejected, **options): return P.review_pair(dict(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected), **options)


def sampled(problem, answer, correct, response, finished=True):
    return SimpleNamespace(problem=problem, answer=answer, correct=correct, finished=finished, prompt_ids=[1, 5], response_ids=response)


def test_preference_keep_end_cuts_weights_as_ids():
    row = dict(prompt_ids=[1, 4, 5], chosen_ids=[6, 7, 2], rejected_ids=[8, 9, 10, 2], rejected_weights=[.1, .2, .3, .4])
    batch = batch_of([row], max_length=3, truncation_mode="keep_end")
    assert batch["input_ids"][1].tolist() == [9, 10, 2] and torch.allclose(batch["token_weights"][1], torch.tensor([.2, .3, .4]))


def test_comparison_of_preference_pairs_are_of_the_most_frequent_answers():
    some = [sampled("a", "7", True, [7, 2]), sampled("a", "3", False, [3, 2]), sampled("a", "4", False, [4, 2]), sampled("a", "4", False, [4, 4, 2]),
            sampled("b", "1", True, [6, 2]), sampled("c", "1", False, [6, 2]), sampled("c", None, False, [9, 2]), sampled("c", "2", True, [6, 2], False)]
    seen = set()
    for seed in range(8):
        made, counts = P.pairs_from_samples(some, seed)
        assert made["problem"][:] == ["a"] and made["chosen_ids"][0] == [7, 2]
        assert counts == dict(problems=3, pairs=1, no_right=1, no_wrong=1, without_answer=1, unfinished=1)
        seen.add(tuple(made["rejected_ids"][0]))
        assert list(P.pairs_from_samples(some[:4], seed)[0]["rejected_ids"]) == list(made["rejected_ids"])
    assert seen == {(4, 2), (4, 4, 2)}
    with pytest.raises(PreferenceDataError, match="no problem has both a correct"): P.pairs_from_samples(some[4:])


def test_preference_weights_are_checked_by_the_number():
    assert P.check_weights([0, 1, .5], 3).tolist() == [0, 1, .5] and P.check_weights([], 0).tolist() == [] and P.check_weights([1, 3], most=3).tolist() == [1, 3]
    assert P.check_weights([1e9], most=math.inf).tolist() == [1e9] and P.check_weights(np.float32([.25])).dtype == float
    refused(lambda: P.check_weights(None), "weights is missing (None)")
    with pytest.raises(ValueError, match="weights = 'ab': it must be a list"): P.check_weights("ab")
    refused(lambda: P.check_weights([[.5]]), "weights has shape (1, 1)")
    refused(lambda: P.check_weights([.5], 2), "weights has 1 entries, but the response has 2 tokens")
    refused(lambda: P.check_weights([.5, 2, -1]), "weights[1] is 2.0; a weight must lie in [0, 1]; set max_weight")
    refused(lambda: P.check_weights([.5, 1, 4], most=3.), "weights[2] is 4.0; a weight must lie in [0, 3]; set max_weight")
    for bad in (-.5, math.nan, math.inf):
        refused(lambda: P.check_weights([bad], most=math.inf), f"weights[0] is {bad}; a weight must lie in [0, inf]")
    for bad, most, end in ((-.5, 1., "[0, 1]"), (math.inf, math.inf, "[0, inf]"), (1.5, 1., "set max_weight for larger ones")):      # a hint where it helps
        with pytest.raises(PreferenceDataError) as error: P.check_weights([bad], most=most)
        assert str(error.value).endswith(end)
    refused(lambda: W.weights_from_scores([2.]), "scores[0] is")
    refused(lambda: W.weights_from_rollouts([.5, 2.]), "rates[1] is")
    refused(lambda: W.weights_from_rollouts([]), "rates is empty")


def test_comparison_of_preference_pairs_by_hand():
    some = [sampled("b", "3", False, [3, 2]), sampled("b", "4", False, [4, 2]), sampled("b", "7", True, [7, 2]),
            sampled("a", "7", True, [7, 7, 2]), sampled("a", "4", False, [8, 2]), sampled("a", "7", True, [5, 7, 2])]
    made, counts = P.pairs_from_samples(some)
    assert made["problem"][:] == ["b", "a"] and counts == dict(problems=2, pairs=2, no_right=0, no_wrong=0, without_answer=0, unfinished=0)
    assert made[0] == dict(problem="b", prompt_ids=[1, 5], chosen_ids=[7, 2], rejected_ids=[3, 2])          # equally frequent: the first by name
    import zlib
    for seed in range(6):
        at = np.random.default_rng([seed, zlib.crc32(b"a"), True]).integers(2)
        assert P.pairs_from_samples(some, seed)[0]["chosen_ids"][1] == [[7, 7, 2], [5, 7, 2]][at]
    assert P.pairs_from_samples(some)[0][1] == P.pairs_from_samples(some, 0)[0][1]
    assert len({tuple(P.pairs_from_samples(some, seed)[0]["chosen_ids"][1]) for seed in range(6)}) == 2


def test_comparison_of_preference_pairs_are_all_counted():
    some = [sampled(p, a, a == "7", [int(a or 0), 2], done) for p, a, done in (("a", "7", True), ("a", "3", True), ("b", "3", True), ("c", "3", True), ("d", "7", True), ("e", "7", True),
                                                                               ("e", None, True), ("d", None, True), ("a", "3", False), ("f", "3", False))]
    assert P.pairs_from_samples(some)[1] == dict(problems=6, pairs=1, no_right=3, no_wrong=3, without_answer=2, unfinished=2)


def test_preference_review_checks_weights():
    row = dict(prompt_ids=[1], chosen_ids=[3], rejected_ids=[4, 9], rejected_weights=[.5, 2.])
    assert P.review_pair(row, max_weight=2.) == []
    refused(lambda: P.review_pair(row), "pair: rejected_weights[1] is 2.0", "[0, 1]")
    refused(lambda: P.review_pair(row | dict(rejected_weights=[.5]), "row 7"), "row 7: rejected_weights has 1 entries, but the response has 2 tokens")
    refused(lambda: P.review_pair(row | dict(chosen_weights=[.5]*2), max_weight=2.), "pair: chosen_weights has 2 entries, but the response has 1 tokens")
    refused(lambda: P.review_pair(row | dict(rejected_weights=None)), "pair: rejected_weights is missing")


def test_preference_review_of_a_table():
    rows = [([1], [3, 9], [4, 9]), ([1]*6, [3], [4]), ([1], [3, 9], [3, 9]), ([1], [], [4]), ([1], [3, 3, 3, 3, 9], [4, 9]), ([1], [3], [4, 9]), ([1], [], [9])]
    data = Dataset.from_list([dict(prompt_ids=p, chosen_ids=c, rejected_ids=r) for p, c, r in rows])
    kept, counts, first = P.review_pairs(data, 5, eos=[9])
    assert kept == [0, 4, 5] and first == dict(truncated=1, prompt_too_long=1, chosen_is_rejected=2, empty=3, without_eos=5)
    assert counts == dict(rows=7, kept=3, truncated=2, prompt_too_long=1, chosen_is_rejected=1, empty=2, without_eos=1)
    assert P.review_pairs(data, 5, keep_end=True)[0] == [0, 1, 4, 5] and P.review_pairs(data)[0] == [0, 1, 4, 5]
    refused(lambda: P.review_pairs(data, context=6), "pairs, row 1: 7 tokens")
    refused(lambda: P.review_pairs(data, context=6, name="eval"), "eval, row 1: 7 tokens")
    heavy = data.select([0]).add_column("chosen_weights", [[1., 1.5]])
    assert P.review_pairs(heavy.with_format("torch"), max_weight=3.)[0] == [0]
    refused(lambda: P.review_pairs(heavy), "pairs, row 0: chosen_weights[1] is 1.5")


def test_preference_review_of_texts_of_which_only_the_end_is_left():
    row = dict(prompt_ids=[1], chosen_ids=[9, 8], rejected_ids=[4, 9])
    for side, ids, said in (("chosen", [9, 8], ["empty"]), ("rejected", [9, 8], []), ("chosen", [9], ["empty"]), ("chosen", [3, 8], [])):
        assert P.review_pair(row | {"chosen_ids": ids, side: " "}, eos=[8, 9]) == said
    assert P.review_pair(dict(row, chosen_ids=[4, 8], rejected_ids=[8], rejected=""), eos=[8, 9]) == ["empty"]
    assert P.review_pair(row, eos=[8, 9]) == [] == P.review_pair(dict(row, chosen="a"))


def test_preference_review_of_one_pair():
    fine = [1, 2], [3, 4], [5, 6, 7]                              # 5 tokens with the longer answer
    assert kinds(*fine) == kinds(*fine, max_length=5) == kinds(*fine, context=5) == []
    assert kinds(*fine, max_length=4) == ["truncated"] and kinds([1, 2], [3, 4, 5], [6], max_length=4) == ["truncated"]
    assert kinds(*fine, max_length=2) == ["truncated", "prompt_too_long"] and kinds(*fine, max_length=3) == ["truncated"]
    assert kinds(*fine, max_length=2, keep_end=True) == ["truncated"]
    assert kinds([1, 2], [], [], max_length=2) == ["prompt_too_long"]
    refused(lambda: kinds(*fine, context=4), "pair: 5 tokens, but the model reads 4")
    refused(lambda: kinds(*fine, max_length=5, context=4, where="it"), "it: 5 tokens, but the model reads 4")
    assert kinds(*fine, max_length=4, context=4) == ["truncated"]
    for empty in (([], [3], [4]), ([1], [], [4]), ([1], [3], []), ([1], [], [])): assert kinds(*empty) == ["empty"]
    assert kinds([1], [3], [3]) == ["chosen_is_rejected"] and kinds([1], [3], [3], eos=[9]) == ["chosen_is_rejected"]
    assert kinds([1], [3, 9], [4, 9], eos=[8, 9]) == kinds([1], [3, 8], [4, 9], eos=[8, 9]) == []
    for chosen, rejected in (([3, 9], [4, 9, 5]), ([3, 9, 5], [4, 9]), ([3, 9], [9, 4]), ([9, 3], [4, 9]), ([3], [4])): assert kinds([1], chosen, rejected, eos=[9]) == ["without_eos"]
