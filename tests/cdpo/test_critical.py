"Critical tokens: the rule on hand-made lists and against a plain reading of it, both searches on known values, pass@k, the contrast, selection, signals, and mutants."
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats

from tokenstudy import lm as lms
from tokenstudy import cdpo as critical
from tokenstudy import tvm as values
from tokenstudy.cdpo import critical as critical_

RULE = dict(later=.05, before=0., screen=16, checks=2)
FREE = dict(max_total=8, temperature=1.5)


def clean(ids): return 3 not in ids


@pytest.fixture(scope="module")
def toy(): return lms.tiny_lm("llama", vocab=8)


@pytest.fixture(scope="module")
def wrong(toy):
    "Texts that are lost at their first token 3."
    return [s for s in lms.sample(toy, [[1, 2]] * 40, max_new_tokens=8, seed=1, temperature=1.5) if s.finished and not clean(s.response_ids)][:4]


# the rule

def check_rule(rule):
    for scores, index in (([.5, .3, 0, .02, 0], 2), ([.5, 0, .1, 0, 0], 3), ([.5, 0, .05, 0], 3), ([0], 0), ([.5, 0, .049], 1), ([.5, 0, 0, .3, 0, 0], 4)):
        assert rule(scores).index == index and rule(scores).reason == "found"
    assert rule([.5, .2, .1]) == critical.Critical(None, "no token has score 0")
    assert rule([.5, 0, 0, .1]) == critical.Critical(None, "a later score is not below the bound", 1)


def test_critical_rule_on_hand_made_lists(): check_rule(critical.critical_token)


@given(st.lists(st.sampled_from([0, 0, 1, 3, 4, 20]), min_size=1, max_size=9))
def test_critical_rule_is_the_papers_sentence_and_the_authors_script(counts):
    scores = [c / 64 for c in counts]
    plain = next((i for i, s in enumerate(scores) if s == 0 and all(x < .05 for x in scores[i + 1:])), None)
    candidate = fallback = None
    for i, c in enumerate(counts):                       # the script: first 0 of 64, reset by more than 3 of 64
        if c == 0 and candidate is None: candidate = fallback = i
        if c > 3: candidate = None
    found = critical.critical_token(scores)
    assert found.index == plain == candidate and found.fallback == (None if found.index is not None else fallback)


@pytest.mark.parametrize("mutant", ["later bound not strict", "last instead of first", "later tokens ignored", "off by one"])
def test_critical_rule_mutants_are_caught(mutant):
    def rule(scores):
        found = critical.critical_token(scores, later=.0500001) if mutant == "later bound not strict" else critical.critical_token(scores)
        if mutant == "last instead of first" and found.index is not None: return critical.Critical(max(i for i, s in enumerate(scores) if s == 0), "found")
        if mutant == "later tokens ignored" and 0 in scores: return critical.Critical(scores.index(0), "found")
        if mutant == "off by one" and found.index is not None: return critical.Critical(found.index + 1, "found")
        return found
    with pytest.raises(AssertionError): check_rule(rule)


def test_critical_rule_excludes_what_was_nearly_lost_before():
    assert critical.critical_token([.5, .02, 0], before=.1) == critical.Critical(None, "the score before is too low", 2)
    assert critical.critical_token([.5, .1, 0], before=.1).index == 2
    assert critical.critical_token([0, 0], before=.1, start=.3).index == 0
    assert critical.critical_token([0, 0], before=.1, start=.05).index is None
    with pytest.raises(ValueError, match="give `start`"): critical.critical_token([0, 0], before=.1)
    for bad in ([.5, math.nan], [1.2], [[.1]], [-.1]):
        with pytest.raises(ValueError, match="scores must be"): critical.critical_token(bad)


def test_critical_wilson_is_scipys():
    for right, n in ((0, 64), (1, 64), (5, 9), (9, 9)):
        low, high = critical.wilson(right, n)
        theirs = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert abs(low - theirs.low) < 1e-12 and abs(high - theirs.high) < 1e-12
    assert [x.tolist() for x in critical.wilson([0, 1], [0, 1])] == [[0, critical.wilson(1, 1)[0]], [1, 1]]
    with pytest.raises(ValueError): critical.wilson(3, 2)


# the searches

def play(search, outcomes, **rule):
    "Run a search on a table of outcomes [T + 1, n]: its `Critical`, and how many rollouts each position got."
    T, n = outcomes.shape[0] - 1, outcomes.shape[1]
    asked, made = search(T, n, **(RULE | rule)), np.zeros(T + 1, int)
    request = next(asked)
    while True:
        rows = [outcomes[t, request[1].start:request[1].stop] for t in request[0]]
        for t, row in zip(request[0], rows):
            made[t] += len(row)
            assert made[t] == request[1].stop <= n           # never a rollout twice
        try: request = asked.send((np.array(rows), np.zeros((len(rows), len(request[1])), int)))
        except StopIteration as end:
            right, counts, found = end.value
            assert (counts == made).all() and (right == [outcomes[t, :c].sum() for t, c in enumerate(counts)]).all()
            return found, made


def check_search(search):
    "On values that die once, whatever the place, the search finds the full rule's token."
    rng = np.random.default_rng(0)
    for T in (1, 2, 3, 7, 20):
        for death in range(1, T + 1):
            outcomes = rng.random((T + 1, 64)) < np.where(np.arange(T + 1) < death, .4, 0)[:, None]
            assert play(search, outcomes)[0].index == play(critical_._full_search, outcomes)[0].index == death - 1


def test_critical_search_finds_the_full_rules_token():
    check_search(critical_._sequential_search)
    never = np.ones((9, 64), bool)
    assert play(critical_._sequential_search, never)[0].index is None


def test_critical_search_uses_few_rollouts():
    rng = np.random.default_rng(1)
    total = sum(play(critical_._sequential_search, rng.random((41, 64)) < np.where(np.arange(41) < d, .4, 0)[:, None])[1].sum() for d in range(1, 41))
    assert total < 40 * 41 * 64 / 8


@given(st.lists(st.sampled_from([0., .01, .03, .1, .6]), min_size=2, max_size=14), st.integers(0, 1000))
@settings(max_examples=150)
def test_critical_search_differs_only_by_what_it_did_not_look_at(values, seed):
    "Any values at all: a token that it finds has 0 of n, a zero before it is killed by a seen score or belongs to no rule, and only unseen positions can object."
    outcomes = np.random.default_rng(seed).random((len(values), 64)) < np.array(values)[:, None]
    full, few = (play(search, outcomes)[0] for search in (critical_._full_search, critical_._sequential_search))
    made = play(critical_._sequential_search, outcomes)[1]
    scores = outcomes.mean(1)
    if few.index is not None:
        assert made[few.index + 1] == 64 and scores[few.index + 1] == 0
        unseen = [t for t in range(few.index + 2, len(values)) if made[t] < 61 and scores[t] >= .05]
        if not unseen and scores[0] >= .05: assert full.index == few.index


@pytest.mark.parametrize("mutant", ["position shifted", "screen without confirmation", "stops at the first dead half"])
def test_critical_search_mutants_are_caught(mutant):
    def search(T, n, **rule):
        if mutant == "screen without confirmation": rule["screen"] = 1
        asked = critical_._sequential_search(T, 4 if mutant == "screen without confirmation" else n, **rule)
        request = next(asked)
        while True:
            answer = yield ([min(T, t + 1) for t in request[0]], request[1]) if mutant == "position shifted" else request
            if mutant == "stops at the first dead half" and not answer[0].any():
                return np.zeros(T + 1, int), np.zeros(T + 1, int), critical.Critical(request[0][0] - 1, "found")
            try: request = asked.send(answer)
            except StopIteration as end: return end.value
    with pytest.raises((AssertionError, ValueError)): check_search(search)


def test_critical_search_borrows_rollouts_that_pass_by():
    "Sixteen wrong rollouts from the prompt that all go through a position are evidence enough to pass it over in the bisection."
    T, asked = 8, critical_._sequential_search(8, 64, **RULE)
    request, seen = next(asked), []
    while True:
        seen.append((request[0][0], request[1]))
        good = np.array([[(request[0][0] == 0) and j % 6 == 0 for j in request[1]]])
        far = np.where(good, 0, T - request[0][0])
        try: request = asked.send((good, far))
        except StopIteration as end:
            found = end.value[2]
            break
    assert found.index == 0 and {t for t, _ in seen} == {0, 1}


# on a model

def test_critical_tokens_of_a_known_truth(toy, wrong):
    full = critical.identify_many(toy, wrong, [clean] * len(wrong), **FREE)
    few = critical.identify_many(toy, wrong, [clean] * len(wrong), search="sequential", **FREE)
    for w, a, b in zip(wrong, full, few, strict=True):
        assert a.index == b.index == w.response_ids.index(3)
        assert (a.right[b.counts == 64] == b.right[b.counts == 64]).all() and b.tokens <= a.tokens and (a.scores[a.index:] == 0).all()
        low, high = a.interval()
        assert len(low) == len(a.scores) == len(w.response_ids) and (low <= a.scores).all() and (a.scores <= high).all()
        assert np.isnan(b.scores[b.counts[1:] == 0]).all()
    assert critical.identify(toy, wrong[0], clean, n=8, **FREE).index == wrong[0].response_ids.index(3)
    alone = critical.identify_sequential(toy, (wrong[0].prompt_ids, wrong[0].response_ids), clean, **FREE)
    assert alone.critical == few[0].critical and (alone.counts == few[0].counts).all()
    excluded = critical.identify(toy, wrong[0], clean, before=.999, **FREE)
    assert excluded.index is None and excluded.critical.reason == "the score before is too low"


def test_critical_follows_counts_common_tokens():
    rolled = lms.Rollouts([5, 6, 7], [1], np.array([[[6, 7, 2], [6, 1, 7], [1, 7, 2], [-1, -1, -1]]], np.int32), np.array([[3, 3, 3, 0]]),
                          np.ones((1, 4), bool), None)
    assert critical_._follows(rolled, 0).tolist() == [2, 1, 0, 0]


def test_critical_bad_input(toy, wrong):
    for words, trajectory in (("is right", ([1, 2], [4, 5, 7])), ("no tokens", ([1, 2], []))):
        with pytest.raises(critical.TrajectoryError, match=words): critical.identify(toy, trajectory, clean, **FREE)
    with pytest.raises(ValueError, match="search 'fast'"): critical.identify_many(toy, wrong, [clean] * 4, search="fast", **FREE)
    with pytest.raises(ValueError, match="as many graders"): critical.identify_many(toy, wrong, [clean], **FREE)
    with pytest.raises(ValueError, match="screen = 0"): critical.identify(toy, wrong[0], clean, screen=0, **FREE)


def test_critical_interventions(toy, wrong):
    marks = [w.response_ids.index(3) for w in wrong]
    rows = critical.intervene(toy, wrong, [clean] * len(wrong), marks, n=32, **FREE)
    assert all(r["kept"] == 0 for r in rows) and sum(r["without"] for r in rows) > 0
    for w, c in zip(wrong, marks):                       # the token is never drawn again at its place
        r = lms.rollouts(toy, w.prompt_ids, w.response_ids, 64, [c], banned={c: [3]}, max_new_tokens=1)
        assert (r.tokens != 3).all()
    sure = lms.rollouts(toy, [1, 2], [], 1, [0], 1, temperature=0).continuation(0, 0)
    with pytest.raises(ValueError, match="all the law's mass"): critical.intervene(toy, [([1, 2], sure)], [clean], [0], max_total=8, temperature=0)
    with pytest.raises(ValueError, match="index None"): critical.intervene(toy, wrong[:1], [clean], [None])


# pass@k, contrast, selection

def test_critical_pass_at_k_is_the_mean_over_subsets():
    for n in range(1, 8):
        for right in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(itertools.combinations(range(n), k))
                assert abs(critical.pass_at_k(n, right, k) - np.mean([min(s) < right for s in subsets])) < 1e-12
    assert abs(critical.pass_at_k(10, 3, 2) - .533333333) < 1e-8
    for bad in ((3, 4, 1), (3, 1, 0), (3, 1, 4)):
        with pytest.raises(ValueError): critical.pass_at_k(*bad)


LOGITS = st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4)

@given(LOGITS, LOGITS, st.floats(0, 5))
def test_critical_contrast_is_a_law(p, q, ce_beta):
    p, q = torch.tensor([p]).log_softmax(-1), torch.tensor([q]).log_softmax(-1)
    law = critical.contrastive_law(p, q, ce_beta)
    assert law.isfinite().all() and abs(float(law.exp().sum()) - 1) < 1e-9
    assert torch.allclose(critical.contrastive_law(p + 3, q - 2, ce_beta), law, atol=1e-6)     # constants cancel
    assert torch.allclose(critical.contrastive_law(p, p, ce_beta), p.double(), atol=1e-6)
    assert torch.allclose(critical.contrastive_law(p, q, 0), p.double(), atol=1e-6)
    by_hand = ((1 + ce_beta) * p.double() - ce_beta * q.double()).softmax(-1)
    for v in range(4): assert abs(float(critical.contrastive_scores(p, q, [v], ce_beta)[0]) - float(by_hand[0, v])) < 1e-9


def test_critical_contrast_of_normal_laws_is_normal():
    x = torch.linspace(-15, 15, 3001, dtype=torch.float64)
    normal = lambda mean: (-(x - mean)**2 / (2 * 1.2**2)).log_softmax(-1)
    for b in (.5, 1, 2): assert (critical.contrastive_law(normal(.7), normal(-.4), b).exp() - normal(.7 + b * 1.1).exp()).abs().max() < 1e-12


def test_critical_contrast_without_mass_is_the_limit():
    p, q = torch.tensor([.4, .3, .2, .1], dtype=torch.float64), torch.tensor([.5, 0, 0, .5], dtype=torch.float64)
    near = critical.contrastive_law(p.log(), (q + 1e-300).log(), 1).exp()
    assert torch.allclose(critical.contrastive_law(p.log(), q.log(), 1).exp(), near) and abs(float(near[1]) - .09 / .13) < 1e-9
    both = critical.contrastive_law(torch.tensor([.5, .5, 0.]).log(), torch.tensor([.2, .8, 0.]).log(), 1)
    assert abs(float(both.exp()[0]) - .8) < 1e-6 and float(both[2]) == -math.inf
    for bad in (torch.tensor([math.nan, 0.]), torch.tensor([math.inf, 0.]), torch.full((2,), -math.inf)):
        with pytest.raises(ValueError): critical.contrastive_law(bad, torch.zeros(2))
    with pytest.raises(ValueError, match="shapes differ"): critical.contrastive_law(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="ce_beta"): critical.contrastive_law(torch.zeros(2), torch.zeros(2), -1)
    with pytest.raises(ValueError, match="do not fit"): critical.contrastive_scores(torch.zeros(2, 4), torch.zeros(2, 4), [0])


class Sample:
    def __init__(self, answer, correct, ids=(1,)): self.answer, self.correct, self.prompt_ids, self.response_ids = answer, correct, [1], list(ids)


def test_critical_selection_of_samples():
    rng, answers = np.random.default_rng(0), list("abacabdefg")
    chosen = [critical.select_negative(answers, [False] * 10, rng) for _ in range(60)]
    assert all(sorted(answers[i] for i in c) == ["a", "b"] for c in chosen)
    assert {i for c in chosen for i in c} == {0, 2, 4, 1, 5}          # any of them
    assert critical.select_negative(["a", None, None], [False] * 3, rng) == [0] and critical.select_negative([None, "x"], [False, True], rng) == []
    assert {critical.select_positive([True, False, True], rng) for _ in range(40)} == {0, 2} and critical.select_positive([False], rng) is None
    problems = [[Sample("1", True), Sample("2", False), Sample("2", False), Sample("3", False)], [Sample("1", True)], [Sample(None, False)]]
    right, other, report = critical.contrast_sets(problems)
    assert [s.answer for s in right] == ["1", "1"] and [s.answer for s in other] == ["2"]
    assert report == {"problems": 3, "without a right sample": 1, "without a wrong answer": 2, "samples without an answer": 1}
    with pytest.raises(ValueError, match="answers, but"): critical.select_negative(["a"], [], rng)
    with pytest.raises(ValueError, match="list is empty"): critical.contrast_model(lms.tiny_lm(vocab=8), [])


# models, signals, views

@pytest.mark.parametrize("lora", [0, 4])
def test_critical_contrast_models_learn_their_samples(toy, lora):
    samples = lms.sample(toy, [[1, 2], [4]] * 4, max_new_tokens=5, seed=3)
    texts = [s.prompt_ids + s.response_ids for s in samples]
    before = lms.token_logprobs(toy, texts)[0]
    taught = critical.contrast_model(toy, samples, epochs=4, lr=3e-3, batch=3, lora=lora)
    fit = lambda read: float(sum(read[i, len(s.prompt_ids):].sum() for i, s in enumerate(samples)))
    assert fit(lms.token_logprobs(taught, texts)[0]) > fit(before)
    assert torch.equal(lms.token_logprobs(toy, texts)[0], before)               # the base is as it was
    again = critical.contrast_model(toy, samples, epochs=4, lr=3e-3, batch=3, lora=lora)
    assert torch.equal(lms.token_logprobs(again, texts)[0], lms.token_logprobs(taught, texts)[0])


def test_critical_signals_belong_to_their_tokens(toy, wrong):
    one, other = wrong[0], lms.tiny_lm("llama", vocab=8, seed=1)
    verifier = values.TokenValueModel.from_causal_lm(other)
    signals = critical.token_signals(toy, other, toy, one, verifier=verifier)
    told = values.score_responses(verifier, [one])[0]
    assert np.allclose(signals["drop"], [0, *(told[:-1] - told[1:])], atol=1e-6) and "drop" not in critical.token_signals(toy, other, toy, one)
    assert set(signals) == set(critical.SIGNALS) and all(x.shape == (len(one.response_ids),) for x in signals.values())
    read = lms.token_logprobs(toy, [one.prompt_ids + one.response_ids])[0][0, len(one.prompt_ids):].numpy()
    assert np.allclose(signals["probability"], read, atol=1e-4) and np.allclose(signals["ratio"], signals["positive"] - signals["probability"])
    assert np.allclose(critical.token_signals(toy, other, toy, one, ce_beta=0)["contrast"], signals["positive"])
    assert (signals["entropy"] > 0).all() and (signals["entropy"] <= math.log(8)).all()
    with pytest.raises(critical.TrajectoryError): critical.token_signals(toy, toy, toy, ([1], []))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.data())
def test_critical_pointing_breaks_ties_at_random(values, data):
    index = data.draw(st.integers(0, len(values) - 1))
    found, others = critical.pointing(values, index), [v for i, v in enumerate(values) if i != index]
    ties = values.count(values[index])
    ranks = [1 + sum(v > values[index] for v in values) + i for i in range(ties)]
    assert found["rank"] == np.mean(ranks)
    assert math.isclose(found["auc"], np.mean([1. if values[index] > v else .5 if values[index] == v else 0 for v in others]))
    for k in (1, 3): assert math.isclose(found[f"hit@{k}"], np.mean([r <= k for r in ranks]))


def test_critical_pointing_bad_input():
    for bad in (([.1, math.nan], 0), ([.1], 1), ([[.1]], 0)):
        with pytest.raises(ValueError): critical.pointing(*bad)
    assert critical.pointing([.3], 0)["auc"] is None


def test_critical_views_are_static_and_escaped(toy, wrong):
    found = critical.identify(toy, wrong[0], clean, n=16, **FREE)
    T = len(wrong[0].response_ids)
    signals = critical.token_signals(toy, lms.tiny_lm("llama", vocab=8, seed=1), toy, wrong[0])
    views = critical.token_views(["<script>alert(1)</script>"] * T, found, signals, "<b>")
    made = views._repr_html_()
    assert "<script" not in made and "<b>" not in made and made.count("<details") == 4 and made.count(" open") == 1 and "outline" in made
    assert repr(views).count("»") == 4 and "[rollouts]" in repr(views)
    with pytest.raises(ValueError): critical.TokenViews({})


# found by a reviewer who wrote it all again

def test_critical_refuses_what_leaves_no_room_for_rollouts(toy, wrong):
    one, never = max(wrong, key=lambda s: len(s.response_ids)), lambda ids: False
    T = len(one.response_ids)
    for search in ("full", "sequential"):
        with pytest.raises(critical.TrajectoryError, match="more than max_total"): critical.identify_many(toy, [one], [never], 4, search, max_total=T - 1)
        critical.identify_many(toy, [one], [never], 4, search, max_total=T)
    with pytest.raises(ValueError, match="below max_total"): critical.intervene(toy, [one], [never], [T - 1], 4, max_total=T - 1)


def test_critical_bounds_and_shares_are_exact():
    for later in (0, float("nan"), -1, 2):
        with pytest.raises(ValueError, match="later"): critical.critical_token([.5, 0, 0], later)
    with pytest.raises(ValueError, match="before"): critical.critical_token([.5, 0, 0], before=2.)
    rng = np.random.default_rng(0)
    answers = ["a"] * 7 + [f"b{i}" for i in range(43)]
    assert critical.select_negative(answers, [False] * 50, rng, .14)[0] < 7 and len(critical.select_negative(answers, [False] * 50, rng, .14)) == 1
    with pytest.raises(ValueError, match="vocabulary"): critical.contrastive_scores(torch.zeros(1, 4), torch.zeros(1, 4), [4])


def test_critical_needs_a_prompt_that_can_come_right(toy, wrong):
    assert critical.critical_token([0, 0, 0], start=0.) == critical.Critical(None, "no rollout from the prompt is right", 0)
    assert critical.critical_token([0, 0, 0], start=.5).index == critical.critical_token([0, 0, 0]).index == 0
    for search in critical.SEARCHES:
        found = critical.identify_many(toy, wrong[:1], [lambda ids: False], 8, search, max_total=8)[0].critical
        assert (found.index, found.reason) == (None, "no rollout from the prompt is right")
