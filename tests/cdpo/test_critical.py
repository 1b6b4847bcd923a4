"Critical tokens: the rule on hand-made lists and against a literal reading of it, both searches on known values, on a model, and mutants."
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tokenstudy import lm as lms
from tokenstudy.cdpo import critical
from cdpo.toy_truth import FREE, clean, toy, wrong


MODEL = SimpleNamespace(name="stands for a model")
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
    with pytest.raises(ValueError, match="^start = .*: it must be (from 0 to 1|a number)"): critical.critical_token([.5, .3, 0, .02, 0], start=start)


def test_critical_interventions(toy, wrong):
    marks = [w.response_ids.index(3) for w in wrong]
    rows = critical.intervene(toy, wrong, [clean] * len(wrong), indices=marks, num_samples=32, **FREE)
    assert all(r["kept"] == 0 for r in rows) and sum(r["without"] for r in rows) > 0
    for w, c in zip(wrong, marks):                       # the token is never drawn again at its place
        r = lms.rollouts(toy, w.prompt_ids, w.response_ids, num_samples=64, positions=[c], banned={c: [3]}, max_new_tokens=1)
        assert (r.tokens != 3).all()
    sure = lms.rollouts(toy, [1, 2], [], num_samples=1, positions=[0], max_new_tokens=1, temperature=0).continuation(0, 0)
    with pytest.raises(ValueError, match="all probability lies"): critical.intervene(toy, [([1, 2], sure)], [clean], indices=[0], max_total=8, temperature=0)
    with pytest.raises(ValueError, match=r"^indices\[0\] = None"): critical.intervene(toy, wrong[:1], [clean], indices=[None])


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


# ---- details that a mutant of the module has lost

def test_critical_rule_at_its_bounds():
    for later in (0, -.1, 1.1):
        with pytest.raises(ValueError, match="^later = "): critical.critical_token([0], later)
    for before in (-.1, 1.1):
        with pytest.raises(ValueError, match="^before = "): critical.critical_token([0], before=before)
    assert critical.critical_token([.5, 0, .9], later=1.).index == 1 and critical.critical_token([1, 0], before=1.).index == 1
    assert critical.critical_token([.04, .05, 0]) == critical.critical_token([.04, .05, 0], .05, 0.) == critical.Critical(2, "found", None)
    assert critical.critical_token([]) == critical.Critical(None, "no token has score 0", None)
    assert critical.critical_token([.5, 0, .3], start=0.) == critical.Critical(None, "no rollout from the prompt is correct", 1)
    assert critical.critical_token([0, .5, 0], start=0.) == critical.Critical(None, "no rollout from the prompt is correct", 2)
    assert critical.critical_token([.5, .3], start=0.) == critical.Critical(None, "no token has score 0")
    assert critical.critical_token([.2, .1, 0, 0], before=.1) == critical.Critical(2, "found") and critical.critical_token([.2, .1, 0], before=.11).fallback == 2


def test_critical_numbers_of_a_solution():
    found = critical.Identified(critical.Critical(1, "found"), np.array([4, 3, 0, 0]), np.array([8, 4, 0, 8]), 40, 9)
    assert found.index == 1 and found.scores[0] == .75 and np.isnan(found.scores[1]) and found.scores[2] == 0
    from tokenstudy.core.statistics import wilson
    for level in (.95, .5):
        assert np.array_equal(np.transpose(found.interval(level)), np.transpose([x[1:] for x in wilson([4, 3, 0, 0], [8, 4, 0, 8], level)]))
    assert np.array_equal(found.interval(), found.interval(.95))


def asks(T, n, answers, **rule):
    "What the sequential search asks for, one question after the other, and its result; `answers(t, j)` says (correct, tokens that follow) of rollout j from t."
    run, seen = critical.SEARCHES["sequential"](T, n, **(RULE | rule)), []
    request = next(run)
    while True:
        (t,), numbers = request
        seen.append((t, numbers.start, numbers.stop))
        told = [answers(t, j) for j in numbers]
        try: request = run.send((np.array([[ok for ok, _ in told]]), np.array([[far for _, far in told]])))
        except StopIteration as end: return seen, end.value[2]


def test_critical_search_asks_step_by_step():
    "Ten tokens of which the seventh (index 6) destroys the solution: the questions of the four steps, in order."
    solvable = lambda t, j: (t <= 6 and j % 2 == 0, 0)
    seen, found = asks(10, 64, solvable, screen=8)
    assert found == critical.Critical(6, "found")
    assert [t for t, _, _ in seen] == [0, 0, 5, 5, 7, 7, 6, 6, 7, 7, 7, 8, 8, 9, 9]
    assert [(a, b) for t, a, b in seen if t == 7] == [(0, 4), (4, 8), (8, 16), (16, 32), (32, 64)]      # first screened, then all 64
    assert all((a, b) in ((0, 4), (4, 8)) for t, a, b in seen if t != 7)
    for checks, extra in ((0, []), (1, [9]), (3, [8, 9, 10])):
        more, again = asks(10, 64, solvable, screen=8, checks=checks)
        assert again == found and [t for t, _, _ in more[11:]] == [t for t in extra for _ in range(2)]


def test_critical_search_goes_on_behind_a_position_that_is_solvable_after_all():
    "Zero at 3 to 6, solvable at 7 and 8, lost from 9: one of the checks finds it, and the search starts again there."
    seen, found = asks(12, 64, lambda t, j: ((t <= 2 or t in (7, 8)) and j % 2 == 0, 0), screen=8, checks=4)
    assert found == critical.Critical(8, "found")
    seen, found = asks(12, 64, lambda t, j: ((t <= 2 or t in (7, 8)) and j % 2 == 0, 0), screen=8, checks=0)
    assert found == critical.Critical(2, "found")


@pytest.mark.parametrize("share, first", [(0., 4), (.05, 4), (.25, 16), (1., 64)])
def test_critical_search_needs_a_share_of_all(share, first):
    "A position is solvable as soon as the share of all 64 is reached, whatever is still to come; one rollout fewer is not enough."
    outcomes = np.zeros((2, 64), bool)
    outcomes[0, :first] = True
    found, made = play(critical.SEARCHES["sequential"], outcomes, before=share)
    assert found == critical.Critical(0, "found") and made.tolist() == [first, 64]
    outcomes[0, first - 1] = False
    found, made = play(critical.SEARCHES["sequential"], outcomes, before=share)
    assert found == (critical.Critical(None, "the score before is too low", 0) if share else critical.Critical(0, "found")) and made[1] == 64


class Known:
    "Rollouts whose texts are known: `texts` [positions][samples] of continuations, None where one did not end."
    new_tokens, prefix_tokens, forwarded = 100, 10, 1
    def __init__(self, response, positions, texts):
        self.response_ids, self.positions, self.texts = response, positions, texts
        self.finished = [[t is not None for t in row] for row in texts]
        widest = max((len(t or ()) for row in texts for t in row), default=0)
        self.tokens = np.array([[[*(t or ()), *[-1]*(widest - len(t or ()))] for t in row] for row in texts])
    def responses(self, a): return [[*self.response_ids[:self.positions[a]], *(t or [3])] for t in self.texts[a]]


def known_rollouts(asked):
    "Every second rollout ends in 1, if the token 3 was not written before; the rest do not end, or end in 3."
    def many(lm, texts, **options):
        asked.append((lm, texts, options))
        made = []
        for i, text in enumerate(texts):
            response = list(text[1])
            count = options["num_samples"][i] if isinstance(options["num_samples"], list) else options["num_samples"]
            made.append(Known(response, options["positions"][i], [[[[1], [3], None, [1]][j % 4] for j in count] for _ in options["positions"][i]]))
        return made
    return many


def test_critical_many_ask_for_all_at_once(monkeypatch):
    asked, graded = [], []
    monkeypatch.setattr(lms, "rollouts_many", known_rollouts(asked))
    monkeypatch.setattr(lms, "eos_ids", lambda lm: [7])
    def grade(ids):
        graded.append(tuple(ids))
        assert type(ids) is list
        return 3 not in ids
    found = critical.identify_many(MODEL, [([1, 2], [4, 3, 5]), ([9], [3])], [grade]*2, num_samples=4, max_total=9, temperature=.5)
    assert [(f.critical, f.correct.tolist(), f.counts.tolist(), f.tokens, f.read) for f in found] == [
        (critical.Critical(1, "found"), [2, 2, 0, 0], [4]*4, 100, 11), (critical.Critical(0, "found"), [2, 0], [4]*2, 100, 11)]
    assert asked == [(MODEL, [([1, 2], [4, 3, 5]), ([9], [3])], dict(num_samples=[range(4)]*2, positions=[[0, 1, 2, 3], [0, 1]], streams=[0, 1], max_total=9, temperature=.5))]
    assert {type(f.tokens) for f in found} == {type(f.read) for f in found} == {int}
    rest = graded[2:]                                              # after the solutions themselves
    assert len(set(rest[:rest.index((1,), 1)])) == rest.index((1,), 1)                             # each text once for each solution
    critical.identify_many(MODEL, [([1], [3])], [grade], streams=[5])
    assert asked[-1][2]["streams"] == [5] and asked[-1][2]["num_samples"] == [range(64)] and asked[-1][2]["max_total"] == 256
    one = critical.identify(MODEL, ([1, 2], [4, 3, 5]), grade, num_samples=8)
    assert one.counts.tolist() == [8]*4 and asked[-1][0] == MODEL and critical.identify(MODEL, ([1], [3]), grade).counts.tolist() == [64]*2


def test_critical_many_with_one_grader_is_each_alone(toy, wrong):
    "Solutions together, graded in one call a round, are what each is by itself; a response is asked about once, and only where it ended."
    calls = []
    def all_at_once(numbers, responses):
        assert all(type(r) is list and r for r in responses) and len(numbers) == len(responses)
        calls.append([(i, *r) for i, r in zip(numbers, responses)])
        return [clean(r) for r in responses]
    for search in critical.SEARCHES:
        calls.clear()
        together = critical.identify_many(toy, wrong, all_at_once, num_samples=16, search=search, streams=[3, 1, 4, 2], **FREE)
        asked = [x for call in calls[1:] for x in call]
        assert len(set(asked)) == len(asked) and all(x[-1] in lms.eos_ids(toy) for x in asked)          # after the solutions themselves
        assert len(calls) == 2 or search == "sequential"
        for stream, t, a in zip([3, 1, 4, 2], wrong, together, strict=True):
            b = critical.identify_many(toy, [t], [clean], num_samples=16, search=search, streams=[stream], **FREE)[0]
            assert (a.critical, a.tokens, a.correct.tolist(), a.counts.tolist()) == (b.critical, b.tokens, b.correct.tolist(), b.counts.tolist())
    both = [critical.intervene(toy, wrong, g, indices=[w.response_ids.index(3) for w in wrong], num_samples=8, **FREE) for g in (all_at_once, [clean]*4)]
    assert both[0] == both[1] and any(row["without"] for row in both[0])


def test_critical_text_grader_reads_and_grades_each_once():
    from tokenstudy import reasoning
    generator, seen = reasoning.load_generator("cpu"), []
    def grade(texts, golds):
        seen.append(list(zip(texts, golds)))
        return reasoning.grade_arithmetic(texts, golds)
    right, wrong_one = (generator.tokenizer(f"7 - 9 = {x} ; # {x}")["input_ids"] for x in (8, 3))
    judge = critical.text_grader(generator, grade, ["8", "3", "8"])
    assert judge([0, 1, 2, 0, 0], [right, right, right, wrong_one, right]) == [True, False, True, False, True]
    assert seen == [[("7 - 9 = 8 ; # 8", "8"), ("7 - 9 = 8 ; # 8", "3"), ("7 - 9 = 3 ; # 3", "8")]]      # the third problem has the first one's answer
    assert judge([], []) == [] and len(seen) == 1
    ids = [right, wrong_one, right + [2]]
    assert [t for t, _ in seen[0][::2]] == [reasoning.text_of(generator.tokenizer, r) for r in ids[:2]] and judge([0], [ids[2]]) == [True]
    with pytest.raises(ValueError): critical.text_grader(generator, lambda texts, golds: [True], ["8", "3"])([0, 1], [right, right])
    with pytest.raises(ValueError, match="^graders: 1 truth values for 2 responses"):
        critical.identify_many(generator, [([1], right), ([1], right)], lambda numbers, responses: [False])


def test_critical_rules_reach_the_search(monkeypatch):
    asked = []
    monkeypatch.setattr(lms, "rollouts_many", known_rollouts(asked))
    monkeypatch.setattr(lms, "eos_ids", lambda lm: [7])
    read = []
    monkeypatch.setattr(lms, "Trunk", type("Trunk", (tuple,), dict(__new__=lambda cls, lm, *text: read.append((lm, text)) or tuple.__new__(cls, text), __len__=lambda self: 50)))
    grade, text = lambda ids: 3 not in ids, ([1, 2], [4, 4, 3, 5, 5, 5, 5, 5, 5])
    def search(**options): return critical.identify_many(MODEL, [text], [grade], num_samples=32, search="sequential", **options)[0]
    plain = search()
    assert plain.critical == critical.Critical(2, "found") and plain.counts.tolist() == [4, 0, 4, 32, 16, 16, 0, 16, 0, 0]
    assert plain.read == 50 + 11*len(asked) and plain.tokens == 100*len(asked) and read == [(MODEL, text)]
    assert search(screen=4, checks=0).counts[4:].sum() < plain.counts[4:].sum() and search(before=.6).critical.reason == "the score before is too low"
    assert search(later=.6).index == 2 and search(later=.6).counts[:4].tolist() == [32]*4                  # no position is solvable enough
    few = critical.identify_sequential(MODEL, text, grade, num_samples=32)
    assert (few.counts == plain.counts).all() and critical.identify_sequential(MODEL, text, grade).counts.max() == 64
    before = len(read)
    asked.clear()
    elsewhere = search(engine="elsewhere")
    assert len(read) == before and asked[0][2]["engine"] == "elsewhere" and elsewhere.read == 11*len(asked)


def test_critical_arguments_are_named(monkeypatch):
    monkeypatch.setattr(lms, "eos_ids", lambda lm: [7])
    never, good = lambda ids: False, ([1], [4])
    def refused(message, trajectories=(good,), graders=(never,), error=ValueError, **options):
        with pytest.raises(error, match=message): critical.identify_many(MODEL, list(trajectories), list(graders), **options)
    for bad in (dict(num_samples=0), dict(screen=0), dict(checks=-1)): refused("^num_samples = .*must be at least 1, 1 and 0", **bad)
    refused("^search 'fast': it must be one of full, sequential", search="fast")
    refused("^1 trajectories need as many graders, not 2", graders=[never]*2)
    refused("^1 trajectories need as many streams, not 2", streams=[1, 2])
    refused("^trajectory 1 has no tokens", [good, ([1], [])], [never]*2, critical.TrajectoryError)
    refused("^trajectory 0 has 4 tokens, more than max_total = 3", [([1], [4]*4)], error=critical.TrajectoryError, max_total=3)
    refused("^trajectory 0 is correct", [([1], [4, 7])], [lambda ids: True], critical.TrajectoryError)
    monkeypatch.setattr(lms, "rollouts_many", known_rollouts([]))
    assert critical.identify_many(MODEL, [([1], [4, 4])], [lambda ids: True], num_samples=4)[0].counts.tolist() == [4]*3       # cut off: it is not correct


def test_critical_without_the_token_and_behind_it(monkeypatch):
    asked, pairs = [], [([1, 2], [4, 3, 5]), ([9], [3])]
    monkeypatch.setattr(lms, "rollouts_many", known_rollouts(asked))
    grade = lambda ids: 3 not in ids
    assert critical.intervene(MODEL, pairs, [grade]*2, indices=[1, 0], num_samples=8, streams=[4, 6], top_p=.9) == [dict(without=4, kept=0, tokens=200)]*2
    common = dict(num_samples=range(8, 16), max_total=256, streams=[4, 6], top_p=.9)
    assert asked == [(MODEL, pairs, dict(positions=[[1], [0]], banned=[{1: [3]}, {0: [3]}], **common)), (MODEL, pairs, dict(positions=[[2], [1]], **common))]
    critical.intervene(MODEL, pairs[:1], [grade], indices=[2])
    assert asked[-1][2] == dict(positions=[[3]], num_samples=range(64, 128), max_total=256, streams=None)
    for indices in ([-1], [3]):
        with pytest.raises(ValueError, match="^trajectory 0: index .* is not one of its 3 tokens"): critical.intervene(MODEL, pairs[:1], [grade], indices=indices)
    for graders, indices in (([grade], [0, 0]), ([grade]*2, [0])):
        with pytest.raises(ValueError, match="^2 trajectories, "): critical.intervene(MODEL, pairs, graders, indices=indices)
    with pytest.raises(ValueError, match="^trajectory 0: index 1 leaves no room"): critical.intervene(MODEL, pairs[:1], [grade], indices=[1], max_total=1)
    assert critical.intervene(MODEL, pairs[:1], [grade], indices=[1], max_total=2)[0]["kept"] == 0


def test_critical_search_remembers_what_passes_by():
    "Rollout j from position t goes through t + 1 … t + far_j on the solution's own tokens; a position is hopeless after `screen` of them without a correct one."
    known = critical._Known(6, 8, .05, 4)
    def roll(t, upto, good, far):
        run = known.roll(t, upto)
        assert next(run)[0] == [t]
        with pytest.raises(StopIteration): run.send((np.array([good]), np.array([far])))
    roll(1, 3, [False, False, True], [2, 0, 5])
    assert known.passing.tolist() == [0, 0, 2, 2, 1, 1, 1] and known.passing_correct.tolist() == [0, 0, 1, 1, 1, 1, 1]
    roll(0, 2, [True, False], [3, 4])
    assert known.passing.tolist() == [0, 2, 4, 4, 2, 1, 1] and known.passing_correct.tolist() == [0, 1, 2, 2, 1, 1, 1]
    assert known.correct.tolist() == [1, 1, 0, 0, 0, 0, 0] and known.counts.tolist() == [2, 3, 0, 0, 0, 0, 0] and known.correct.dtype.kind == known.counts.dtype.kind == "i"
    fresh = critical._Known(3, 8, .05, 4)
    fresh.counts[:], fresh.passing[:] = [4, 3, 3, 2], [0, 1, 0, 2]
    assert [fresh.hopeless(t) for t in range(4)] == [True, True, False, True]
    fresh.correct[0] = fresh.passing_correct[0] = fresh.correct[1] = fresh.passing_correct[3] = 1
    assert not any(fresh.hopeless(t) for t in range(4))


def test_critical_rule_counts_in_double_precision():
    assert critical.critical_token(np.float32([.5, 0, .7]), later=.7).index == 1 and critical.critical_token([.5, 0, .7], later=.7).index is None        # .69999999 is below .7
    assert critical.critical_token([1, 0, 0]).index == 1


def test_critical_search_says_why_there_is_none(monkeypatch):
    for T in (2, 5):
        assert play(critical.SEARCHES["sequential"], np.ones((T + 1, 64), bool))[0] == critical.Critical(None, "no token was found")
        assert play(critical.SEARCHES["sequential"], np.zeros((T + 1, 64), bool))[0] == critical.Critical(None, "no rollout from the prompt is correct", 0)
    late = np.zeros((6, 64), bool)
    late[1:4, ::2] = True                                       # the prompt alone never, later ones do
    assert play(critical.SEARCHES["sequential"], late, checks=4)[0] == critical.Critical(None, "no rollout from the prompt is correct", 3)
    assert critical.Identified(critical.Critical(0, "found"), np.array([1, 1]), np.array([4, 1]), 1, 1).scores.tolist() == [1]
    rolled = lms.Rollouts([5], [1], np.array([[[6], [7]]], np.int32), np.array([[1, 1]]), np.ones((1, 2), bool), None)
    assert critical._follows(rolled, 0).tolist() == [0, 0] and critical._follows(rolled, 0).dtype.kind == "i"
    asked = []
    monkeypatch.setattr(lms, "rollouts_many", known_rollouts(asked))
    monkeypatch.setattr(lms, "eos_ids", lambda lm: [7])
    monkeypatch.setattr(lms, "Trunk", type("Trunk", (tuple,), dict(__new__=lambda cls, lm, *text: tuple.__new__(cls, text))))
    critical.identify_sequential(MODEL, ([1], [4, 3]), lambda ids: 3 not in ids, num_samples=1, screen=1, max_total=2, top_k=3)
    assert asked[0][0] is MODEL and asked[0][2]["top_k"] == 3 and asked[0][2]["max_total"] == 2
