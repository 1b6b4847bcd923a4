"Critical tokens: the rule on hand-made lists and against a literal reading of it, both searches on known values, on a model, and mutants."
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tokenstudy import lm as lms
from tokenstudy.cdpo import critical
from cdpo.toy_truth import FREE, clean, toy, wrong


RULE = dict(later=.05, before=0., screen=16, checks=2)


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
            assert play(search, outcomes)[0].index == play(critical.SEARCHES["full"], outcomes)[0].index == death - 1


def test_critical_search_finds_the_full_rules_token():
    check_search(critical.SEARCHES["sequential"])
    never = np.ones((9, 64), bool)
    assert play(critical.SEARCHES["sequential"], never)[0].index is None


def test_critical_search_uses_few_rollouts():
    rng = np.random.default_rng(1)
    total = sum(play(critical.SEARCHES["sequential"], rng.random((41, 64)) < np.where(np.arange(41) < d, .4, 0)[:, None])[1].sum() for d in range(1, 41))
    assert total < 40 * 41 * 64 / 8


@given(st.lists(st.sampled_from([0., .01, .03, .1, .6]), min_size=2, max_size=14), st.integers(0, 1000))
@settings(max_examples=150)
def test_critical_search_differs_only_by_what_it_did_not_look_at(values, seed):
    "Any values at all: a token that it finds has 0 of n, a zero before it is killed by a seen score or belongs to no rule, and only unseen positions can object."
    outcomes = np.random.default_rng(seed).random((len(values), 64)) < np.array(values)[:, None]
    full, few = (play(search, outcomes)[0] for search in (critical.SEARCHES["full"], critical.SEARCHES["sequential"]))
    made = play(critical.SEARCHES["sequential"], outcomes)[1]
    scores = outcomes.mean(1)
    if few.index is not None:
        assert made[few.index + 1] == 64 and scores[few.index + 1] == 0
        unseen = [t for t in range(few.index + 2, len(values)) if made[t] < 61 and scores[t] >= .05]
        if not unseen and scores[0] >= .05: assert full.index == few.index


@pytest.mark.parametrize("mutant", ["position shifted", "screen without confirmation", "stops at the first dead half"])
def test_critical_search_mutants_are_caught(mutant):
    def search(T, n, **rule):
        if mutant == "screen without confirmation": rule["screen"] = 1
        asked = critical.SEARCHES["sequential"](T, 4 if mutant == "screen without confirmation" else n, **rule)
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
    T, asked = 8, critical.SEARCHES["sequential"](8, 64, **RULE)
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


def test_critical_tokens_of_a_known_truth(toy, wrong):
    full = critical.identify_many(toy, wrong, [clean] * len(wrong), **FREE)
    few = critical.identify_many(toy, wrong, [clean] * len(wrong), search="sequential", **FREE)
    for w, a, b in zip(wrong, full, few, strict=True):
        assert a.index == b.index == w.response_ids.index(3)
        assert (a.correct[b.counts == 64] == b.correct[b.counts == 64]).all() and b.tokens <= a.tokens and (a.scores[a.index:] == 0).all()
        low, high = a.interval()
        assert len(low) == len(a.scores) == len(w.response_ids) and (low <= a.scores).all() and (a.scores <= high).all()
        assert np.isnan(b.scores[b.counts[1:] == 0]).all()
    assert critical.identify(toy, wrong[0], clean, num_samples=8, **FREE).index == wrong[0].response_ids.index(3)
    alone = critical.identify_sequential(toy, (wrong[0].prompt_ids, wrong[0].response_ids), clean, **FREE)
    assert alone.critical == few[0].critical and (alone.counts == few[0].counts).all()
    excluded = critical.identify(toy, wrong[0], clean, before=.999, **FREE)
    assert excluded.index is None and excluded.critical.reason == "the score before is too low"


def test_critical_follows_counts_common_tokens():
    rolled = lms.Rollouts([5, 6, 7], [1], np.array([[[6, 7, 2], [6, 1, 7], [1, 7, 2], [-1, -1, -1]]], np.int32), np.array([[3, 3, 3, 0]]),
                          np.ones((1, 4), bool), None)
    assert critical._follows(rolled, 0).tolist() == [2, 1, 0, 0]


def test_critical_bad_input(toy, wrong):
    for words, trajectory in (("is correct", ([1, 2], [4, 5, 7])), ("no tokens", ([1, 2], []))):
        with pytest.raises(critical.TrajectoryError, match=words): critical.identify(toy, trajectory, clean, **FREE)
    with pytest.raises(ValueError, match="search 'fast'"): critical.identify_many(toy, wrong, [clean] * 4, search="fast", **FREE)
    with pytest.raises(ValueError, match="as many graders"): critical.identify_many(toy, wrong, [clean], **FREE)
    with pytest.raises(ValueError, match="screen = 0"): critical.identify(toy, wrong[0], clean, screen=0, **FREE)


@pytest.mark.parametrize("start", [7, -.1, 1.01, float("nan")])
def test_reported_a_score_of_the_prompt_is_a_share(start):
    with pytest.raises(ValueError, match="start = .*must lie in"): critical.critical_token([.5, .3, 0, .02, 0], start=start)


def test_critical_interventions(toy, wrong):
    marks = [w.response_ids.index(3) for w in wrong]
    rows = critical.intervene(toy, wrong, [clean] * len(wrong), indices=marks, num_samples=32, **FREE)
    assert all(r["kept"] == 0 for r in rows) and sum(r["without"] for r in rows) > 0
    for w, c in zip(wrong, marks):                       # the token is never drawn again at its place
        r = lms.rollouts(toy, w.prompt_ids, w.response_ids, num_samples=64, positions=[c], banned={c: [3]}, max_new_tokens=1)
        assert (r.tokens != 3).all()
    sure = lms.rollouts(toy, [1, 2], [], num_samples=1, positions=[0], max_new_tokens=1, temperature=0).continuation(0, 0)
    with pytest.raises(ValueError, match="all probability lies"): critical.intervene(toy, [([1, 2], sure)], [clean], indices=[0], max_total=8, temperature=0)
    with pytest.raises(ValueError, match="index None"): critical.intervene(toy, wrong[:1], [clean], indices=[None])


def test_critical_refuses_what_leaves_no_room_for_rollouts(toy, wrong):
    one, never = max(wrong, key=lambda s: len(s.response_ids)), lambda ids: False
    T = len(one.response_ids)
    for search in ("full", "sequential"):
        with pytest.raises(critical.TrajectoryError, match="more than max_total"): critical.identify_many(toy, [one], [never], num_samples=4, search=search, max_total=T - 1)
        critical.identify_many(toy, [one], [never], num_samples=4, search=search, max_total=T)
    with pytest.raises(ValueError, match="below max_total"): critical.intervene(toy, [one], [never], indices=[T - 1], num_samples=4, max_total=T - 1)


def test_critical_needs_a_prompt_that_can_come_right(toy, wrong):
    assert critical.critical_token([0, 0, 0], start=0.) == critical.Critical(None, "no rollout from the prompt is correct", 0)
    assert critical.critical_token([0, 0, 0], start=.5).index == critical.critical_token([0, 0, 0]).index == 0
    for search in critical.SEARCHES:
        found = critical.identify_many(toy, wrong[:1], [lambda ids: False], num_samples=8, search=search, max_total=8)[0].critical
        assert (found.index, found.reason) == (None, "no rollout from the prompt is correct")


def test_critical_search_gives_a_position_up_only_beyond_the_bound():
    "7 wrong of 8, and 2 of 9 are asked for: the ninth rollout decides. (A search that stops at `>=` is caught.)"
    outcomes = np.array([[1, 0, 0, 0, 0, 0, 0, 0, 1], [0]*9], bool)
    for search in critical.SEARCHES.values():
        assert play(search, outcomes, before=.2)[0] == critical.Critical(0, "found")
        assert play(search, outcomes[:, ::-1][:, 1:], before=.3)[0].reason == "the score before is too low"
