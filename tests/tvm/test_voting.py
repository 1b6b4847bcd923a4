"Votes, closed forms and curves against brute force."
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tokenstudy import core
from tokenstudy.tvm.voting import ScoreError, VOTES, accuracy_curves, best_at_n, best_of_n, majority_vote, sample_score, weighted_vote
from tvm.toys import sampled, samples


def test_votes_by_hand():
    answers, scores = ["5", "5", "7"], [.2, .2, .5]
    assert majority_vote(answers) == "5" and weighted_vote(answers, scores) == "7" and best_of_n(answers, scores) == 2
    assert [weighted_vote(["5", "5", "7"], [.1, .5, .35], how) for how in VOTES] == ["5", "7", "5"]
    assert best_of_n(["a", "b", "c"], [1, 1, 1]) == 0 and majority_vote(["a", "b"]) == "a" and weighted_vote(["b", "a"], [.5, .5], "mean") == "b"
    assert best_of_n([None, "b"], [9, .1]) == 1 and majority_vote([None, None, "b"]) == "b"
    assert best_of_n([None], [1]) is majority_vote([None]) is weighted_vote([], []) is None
    assert [sample_score([.4, .2, .5], how) for how in ("last", "min", "prod", "mean")] == pytest.approx([.5, .2, .04, 11 / 30])


VOTERS = st.lists(st.tuples(st.sampled_from([None, "a", "b", "c"]), st.integers(0, 4)), min_size=1, max_size=9)


@given(VOTERS)
def test_votes_against_counting(voters):
    answers, scores = [a for a, _ in voters], [s / 4 for _, s in voters]
    kinds = list(dict.fromkeys(a for a in answers if a is not None))
    def winner(weight): return max(kinds, key=weight) if kinds else None         # the first of equals
    of = lambda kind: [s for a, s in zip(answers, scores) if a == kind]
    assert majority_vote(answers) == winner(lambda k: Counter(answers)[k])
    assert weighted_vote(answers, scores) == winner(lambda k: sum(of(k)))
    assert weighted_vote(answers, scores, "max") == winner(lambda k: max(of(k)))
    assert weighted_vote(answers, scores, "mean") == winner(lambda k: sum(of(k)) / len(of(k)))
    best = best_of_n(answers, scores)
    assert best == next((i for i, (a, s) in enumerate(zip(answers, scores)) if a is not None and s == max(s for a, s in zip(answers, scores) if a)), None)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=8), st.data())
def test_closed_forms_against_all_subsets(samples, data):
    k, N, right = data.draw(st.integers(1, len(samples))), len(samples), [r for r, _ in samples]
    subsets = list(itertools.combinations(range(N), k))
    assert core.pass_at_k(N, sum(right), k) == pytest.approx(np.mean([any(right[i] for i in s) for s in subsets]))
    assert best_at_n(right, [x for _, x in samples], k) == pytest.approx(np.mean([right[max(s, key=lambda i: samples[i][1])] for s in subsets]))
    assert best_at_n(right, right, k) == pytest.approx(core.pass_at_k(N, sum(right), k))   # true values: the limit
    assert best_at_n(right, [1.] * N, 1) == pytest.approx(np.mean(right))


def test_pass_at_k_constant():
    assert core.pass_at_k(10, 3, 2) == pytest.approx(.53333, abs=1e-5)
    for bad in ((3, 4, 1), (3, 1, 0), (3, 1, 4)):
        with pytest.raises(ValueError): core.pass_at_k(*bad)


def test_accuracy_curves_against_single_votes():
    rng, N, Ns = np.random.default_rng(0), 8, (1, 2, 4, 8)
    samples = [[sampled(rng.choice(["a", "b", "c", None]), "a", 1 + i) for i in range(N)] for _ in range(12)]
    scores = rng.integers(0, 5, (12, N)) / 4
    rows = accuracy_curves(samples, dict(v=scores), (*Ns, 16), orders=1, per_question=True)
    found = {(r["method"], r["N"]): r for r in rows}
    assert {r["N"] for r in rows} == set(Ns) and all(r["low"] <= r["accuracy"] <= r["high"] for r in rows)
    for n in Ns:
        first = [([s.answer for s in some][:n], x[:n]) for some, x in zip(samples, scores)]
        assert found["majority", n]["questions"] == [majority_vote(a) == "a" for a, _ in first]
        for how in ("sum", "mean"): assert found[f"weighted vote ({how})", n]["questions"] == [weighted_vote(a, x, how) == "a" for a, x in first]
        assert found["pass@N", n]["accuracy"] == pytest.approx(np.mean([core.pass_at_k(N, sum(s.correct for s in some), n) for some in samples]))
        assert found["majority", n]["tokens"] == n * 4.5
    whole = [best_of_n([s.answer for s in some], x) for some, x in zip(samples, scores)]
    assert found["best-of-N", 8]["accuracy"] == pytest.approx(np.mean([i is not None and some[i].correct for i, some in zip(whole, samples)]))
    more = {(r["method"], r["N"]): r for r in accuracy_curves(samples, dict(v=scores), Ns, orders=200)}
    every = [np.mean([majority_vote([some[i].answer for i in p]) == "a" for p in itertools.combinations(range(N), 2)]) for some in samples[:3]]
    few = accuracy_curves(samples[:3], {}, (2,), orders=400, per_question=True)
    assert np.allclose(next(r for r in few if r["method"] == "majority")["questions"], every, atol=.25) and more["pass@N", 1]["accuracy"] == pytest.approx(found["pass@N", 1]["accuracy"])
    with pytest.raises(ScoreError, match=r"scores\['v'\]\[0\]\[2\] is nan"): accuracy_curves(samples[:1], dict(v=[[0, 1, math.nan, *[0] * 5]]))
    with pytest.raises(ValueError, match="the same number of samples"): accuracy_curves([samples[0], samples[1][:3]])
    with pytest.raises(ValueError, match="8 numbers for each of 12"): accuracy_curves(samples, dict(v=scores[:, :4]))


def test_votes_and_curves_break_ties_alike():
    answers, scores = ["a", "b", "b", "b"], [.3, .1, .1, .1]
    assert weighted_vote(answers, scores) == "a" == weighted_vote(answers, scores[:1] + [.1 + 1e-15] * 3)
    assert weighted_vote(["b", "b", "b", "a"], [.1, .1, .1, .3]) == "b"
    with pytest.raises(ValueError, match="as many scores"): best_at_n([True, False], [.1], 1)


def test_reported_equal_answers_vote_together():
    "deepconf 15: 1/2 and 0.5 are one answer in votes and curves."
    answers = ["1/2", "0.5", "3", "3", r"\frac{1}{2}", "3.0", ".5"]
    assert majority_vote(answers) == "1/2" and weighted_vote(answers, [.1]*2 + [.9]*2 + [.1]*3) == "3"
    assert majority_vote(answers, same=lambda a, b: a == b) == "3"
    some = [samples_of(["1/2", "0.5", "2/4", ".5", "3", "3", "3"], [1, 1, 1, 1, 0, 0, 0])]
    found = {row["method"]: row["accuracy"] for row in accuracy_curves(some, {"v": [[.5]*7]}, [7])}
    assert found["majority"] == found["weighted vote (sum)"] == 1


def samples_of(answers, correct):
    from types import SimpleNamespace
    return [SimpleNamespace(answer=a, correct=bool(c), response_ids=[1], finished=True) for a, c in zip(answers, correct)]


def test_reported_negative_scores_are_not_summed():
    for answers, scores in ((list("aaab"), [-1, -1, -1, -2]), (["a", "b"], [.5, -1e-9])):
        with pytest.raises(ScoreError, match="scores.*negative"): weighted_vote(answers, scores)
        assert weighted_vote(answers, scores, "mean") == weighted_vote(answers, scores, "max") == "a"
    with pytest.raises(ScoreError, match="negative"): sample_score([-2, -3], "prod")
    assert sample_score([-2, -3]) == -3
    some = [samples_of(["1", "2"], [1, 0])]
    with pytest.raises(ScoreError, match="votes="): accuracy_curves(some, {"logits": [[2., -1.]]}, [2])
    found = {row["method"]: row["accuracy"] for row in accuracy_curves(some, {"logits": [[2., -1.]]}, [2], votes=("mean",))}
    assert found["best-of-N"] == found["weighted vote (mean)"] == 1 and "weighted vote (sum)" not in found
    with pytest.raises(ValueError, match="'max' is neither"): accuracy_curves(some, votes=("max",), Ns=[2])


def test_blank_answers_do_not_vote():
    assert majority_vote(["", " ", "3"]) == "3" and best_of_n(["", "3"], [1, 0]) == 1 and weighted_vote(["", None], [1, 1]) is None
    some = [samples_of(["", "", "7"], [0, 0, 1])]
    assert {row["method"]: row["accuracy"] for row in accuracy_curves(some, Ns=[3])}["majority"] == 1


# ---- details that a mutant of the module has lost

def test_scores_that_cannot_be_used_are_named():
    with pytest.raises(ScoreError, match=r"^scores\[1\] is nan"): best_of_n(["a", "b"], [1, math.nan])
    with pytest.raises(ScoreError, match=r"^values\[1\] is inf"): sample_score([1, math.inf])
    with pytest.raises(ScoreError, match=r"^scores\[2\] is -1.0: .*, or how='mean' or how='max'$"): weighted_vote(["a", "a", "b"], [1, 1, -1])
    some = [samples_of(["1", "2"], [1, 0])]*2
    with pytest.raises(ScoreError, match=r"^scores\['logits'\]\[1\]\[0\] is -1.0: .*, or votes=\('mean',\)$"): accuracy_curves(some, {"logits": [[2., 1.], [-1., 2.]]})
    for bad in ([], [[.1, .2]]):
        with pytest.raises(ValueError, match="at least one value"): sample_score(bad)
    assert sample_score([0, .5], "prod") == 0
    for bad, words in ((dict(orders=0), "^orders = 0: it must be at least 1"), (dict(Ns=[]), "^Ns = empty"), (dict(Ns=[3, 9]), "^Ns: none of them lies between 1 and 2")):
        with pytest.raises(ValueError, match=words): accuracy_curves(some, **bad)


def test_large_scores_lose_no_vote():
    "The margin of 1e-12 within which two sums are equal vanishes beside 1e6."
    assert weighted_vote(["a", "b"], [1e6, 1], "max") == weighted_vote(["a", "b"], [1e6, 1]) == "a"
    some = [samples_of(["a", "b"], [1, 0])]
    assert {row["method"]: row["accuracy"] for row in accuracy_curves(some, {"v": [[1e6, 1]]}, [2])}["weighted vote (sum)"] == 1


def curve_by_votes(some, scores, n, orders, seed, q, how):
    "The share of orders in which a vote among the first n samples is correct."
    rng, N = np.random.default_rng([seed, q]), len(some)
    places, truth = [np.arange(N), *(rng.permutation(N) for _ in range(orders - 1))], {s.answer for s in some if s.correct}
    return np.mean([weighted_vote([some[i].answer if s_done(some[i]) else None for i in p[:n]], scores[p[:n]], how) in truth for p in places])


def s_done(sample): return getattr(sample, "finished", True)


@given(st.lists(st.lists(st.tuples(st.sampled_from([None, "a", "b", "c"]), st.integers(-2, 3), st.booleans()), min_size=4, max_size=4), min_size=1, max_size=3),
       st.integers(1, 4), st.integers(0, 3))
def test_curves_are_votes_in_each_order(questions, orders, seed):
    from types import SimpleNamespace
    some = [[SimpleNamespace(answer=a, correct=done and a == "a", response_ids=[1], finished=done) for a, _, done in question] for question in questions]
    scores = np.array([[x/2 for _, x, _ in question] for question in questions])
    rows = accuracy_curves(some, {"v": scores, "w": abs(scores)}, (1, 2, 3, 4), orders=orders, seed=seed, per_question=True, votes=("mean",))
    rows += accuracy_curves(some, {"w": abs(scores)}, (1, 2, 3, 4), orders=orders, seed=seed, per_question=True, votes=("sum",))
    for row in rows:
        how = {"majority": "sum", "weighted vote (mean)": "mean", "weighted vote (sum)": "sum"}.get(row["method"])
        if not how: continue
        x = {None: np.ones_like(scores), "v": scores, "w": abs(scores)}[row["scores"]]
        assert row["questions"] == pytest.approx([curve_by_votes(s, x[q], row["N"], orders, seed, q, how) for q, s in enumerate(some)], abs=1e-12)
        assert (row["accuracy"], row["low"], row["high"]) == core.bootstrap_interval(row["questions"], seed=seed)
    assert {row["scores"] for row in rows if row["method"] == "best-of-N"} == {"v", "w"}


def test_curves_keep_the_votes_margin():
    "Two sums that differ by more than 1e-12 are no tie, in votes as in curves; a mean below zero wins against what has no sample yet."
    some, scores = [samples_of(["b", "a"], [0, 1])], [.5, .5 + 1.5e-12]
    assert weighted_vote(["b", "a"], scores) == "a"
    assert {row["method"]: row["accuracy"] for row in accuracy_curves(some, {"v": [scores]}, [2])}["weighted vote (sum)"] == 1
    below = accuracy_curves([samples_of(["1", "2"], [1, 0])], {"v": [[-1., -2.]]}, [1], orders=1, votes=("mean",))
    assert {row["method"]: row["accuracy"] for row in below}["weighted vote (mean)"] == 1


def test_curves_by_default():
    "As many N as there are samples for; samples that say nothing about their end have ended."
    from types import SimpleNamespace
    some = [[SimpleNamespace(answer=str(int(x)), correct=x == 3, response_ids=[1]) for x in np.random.default_rng(q).integers(0, 5, 64)] for q in range(3)]
    found = accuracy_curves(some)
    assert [row["N"] for row in found if row["method"] == "majority"] == [1, 2, 4, 8, 16, 32, 64] and "questions" not in found[0]
    assert found == accuracy_curves(some, orders=8, seed=0) and found != accuracy_curves(some, orders=9) and found != accuracy_curves(some, seed=1)
    assert found[-1]["method"] == "majority" and found[-1]["accuracy"] > 0
    with_same = accuracy_curves(some, Ns=[64], same=lambda a, b: True)                  # all answers are one, and one of them is correct
    assert {row["method"]: row["accuracy"] for row in with_same}["majority"] == 1
    nothing = accuracy_curves([samples_of([None, None], [0, 0]), samples_of(["1", "1"], [1, 1])], Ns=[1, 2])
    assert [row["accuracy"] for row in nothing if row["method"] == "majority"] == [.5, .5]


def test_the_seed_is_that_of_the_interval_too():
    draw = np.random.default_rng(0)
    some = [samples_of(draw.choice(list("abc"), 5), [0]*5) for _ in range(31)]
    for question in some: question[0].correct = True
    row = next(r for r in accuracy_curves(some, Ns=[3], seed=5, per_question=True) if r["method"] == "majority")
    assert [row["low"], row["high"]] == list(core.bootstrap_interval(row["questions"], seed=5)[1:])
    assert all([row["low"], row["high"]] != list(core.bootstrap_interval(row["questions"], seed=s)[1:]) for s in (0, 1))
