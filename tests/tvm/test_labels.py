"Labels: by hand and against a slow reference, doubtful samples, one gradient for outcomes and values, and mutants."
import itertools
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from tokenstudy import core, lm, reasoning
from tokenstudy.tvm.labels import COUNTS, LABELS, ValueData, ValueDataError, beta_posterior, by_problem, label_samples, labels_flat, prm_labels_by_rollout, problem_trie, review, step_ends, value_data
from tvm.toys import NAN, ids, made, same, samples


@pytest.fixture(scope="module")
def toy(): return lm.tiny_lm("llama", vocab=8)


@pytest.fixture(scope="module")
def paths(): return samples()


MODEL = SimpleNamespace(name="stands for a model")
LETTERS, CORRECT = ["abcd", "abce", "abf", "ag", "abcd", "h"], [1, 0, 1, 0, 1, 0]


def slow(paths, right, kind, steps=None):
    "Labels as the words say it, quadratic."
    out = []
    for path in paths:
        row = []
        for k in range(1, len(path) + 1):
            through = [y for p, y in zip(paths, right) if p[:k] == path[:k]]
            same = [y for p, y in zip(paths, right) if p == path]
            ends = k == len(path) or (k % steps == 0 if isinstance(steps, int) else path[k - 1] in (steps or ()))
            row.append(dict(tvm=np.mean(through), ovm=np.mean(same), orm=np.mean(same) if k == len(path) else NAN,
                            prm_soft=np.mean(through) if ends else NAN, prm_hard=float(any(through)) if ends else NAN)[kind])
        out.append(row)
    return out


def by_trie(paths, right, kind, steps=None):
    trie = reasoning.Trie(paths, right)
    how = dict(block=steps) if isinstance(steps, int) else dict(delimiter=steps)
    return [x.tolist() for x in np.split(labels_flat(trie, kind, **how), trie.starts[1:-1])]


def check_labels(labels):
    six = [ids(p) for p in LETTERS]
    tree = dict(a=3/5, ab=3/4, abc=2/3, abcd=1, abce=0, abf=1, ag=0, h=0)
    assert same(labels(six, CORRECT, "tvm"), [[tree[p[:k]] for k in range(1, len(p) + 1)] for p in LETTERS])
    assert same(labels(six, CORRECT, "ovm"), [[y]*len(p) for p, y in zip(LETTERS, CORRECT)])
    assert same(labels(six, CORRECT, "orm"), [[NAN]*(len(p) - 1) + [y] for p, y in zip(LETTERS, CORRECT)])
    assert same(labels(six, CORRECT, "prm_soft", ids("b")), [[NAN, 3/4, NAN, 1], [NAN, 3/4, NAN, 0], [NAN, 3/4, 1], [NAN, 0], [NAN, 3/4, NAN, 1], [0]])
    assert same(labels(six, CORRECT, "prm_hard", 2), [[NAN, 1, NAN, 1], [NAN, 1, NAN, 0], [NAN, 1, 1], [NAN, 0], [NAN, 1, NAN, 1], [0]])
    endings = [ids("ab$"), ids("abc$"), ids("$")]                    # a path that begins another
    assert [row[-1] for row in labels(endings, [1, 0, 1], "tvm")] == [1, 0, 1]


def test_values_labels_by_hand(): check_labels(by_trie)


MUTANTS = {
    "shifted by one": lambda p, y, *how: [[x[0], *x[:-1]] for x in by_trie(p, y, *how)],
    "end dropped": lambda p, y, *how: [[*x, x[-1]] for x in by_trie([q[:-1] or q for q in p], y, *how)],
    "copies removed before counting": lambda p, y, *how: (lambda once: [dict(zip(once, by_trie([list(q) for q in once], list(once.values()), *how)))[tuple(q)]
                                                                        for q in p])(dict(zip(map(tuple, p), y))),
    "outcomes for values": lambda p, y, kind, *how: by_trie(p, y, "ovm" if kind == "tvm" else kind, *how),
    "the path itself not counted": lambda p, y, kind, *how: by_trie(p, [1 - x for x in y], kind, *how)}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_values_label_mutants_are_caught(mutant):
    with pytest.raises(AssertionError): check_labels(MUTANTS[mutant])


some_paths = st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=5), st.integers(0, 1)), min_size=1, max_size=9)


@settings(max_examples=60)
@given(some_paths, st.sampled_from([1, 2, 3, (0,), (1, 2)]))
def test_values_labels_are_the_slow_reference(pairs, steps):
    paths, right = zip(*pairs)
    for kind in LABELS: assert same(by_trie(paths, right, kind, steps), slow(paths, right, kind, steps))


@settings(max_examples=40)
@given(some_paths, st.randoms(use_true_random=False))
def test_values_identities_on_random_tries(pairs, random):
    paths, right = [list(p) + [9] for p, _ in pairs], [y for _, y in pairs]
    trie = reasoning.Trie(paths, right)
    assert np.isclose(trie.value[0], np.mean(right))
    for u in range(len(trie)):
        below = trie.children(u)
        ending = trie.leaf == u
        assert np.isclose(trie.correct[u], (trie.count*trie.value)[below].sum() + trie.labels[ending].sum())
    order = list(range(len(paths)))
    random.shuffle(order)
    for kind in LABELS:
        moved = by_trie([paths[i] for i in order], [right[i] for i in order], kind, 2)
        assert same([by_trie(paths, right, kind, 2)[i] for i in order], moved)
    for p, y in zip(paths, right): assert by_trie([p], [y], "tvm") == by_trie([p], [y], "ovm")          # N_tr = 1


def test_values_of_a_constant_predictor():
    six = [ids(p) for p in LETTERS]
    tvm, ovm = (sum(((.5 - np.array(x))**2).sum() for x in by_trie(six, CORRECT, k)) for k in ("tvm", "ovm"))
    assert tvm == pytest.approx(1.88333, abs=1e-5) and ovm == pytest.approx(4.5) and ovm - tvm == pytest.approx(2.61667, abs=1e-5)


def test_values_converge_on_a_markov_policy():
    "Tokens 0 … 2, three of them, a right path has an even sum: exact values by enumeration, error falls like 1/√n."
    chances = np.array([[.6, .3, .1], [.2, .5, .3], [.3, .3, .4]])
    chance = {p: (np.array([.5, .3, .2])[p[0]]*chances[p[0], p[1]]*chances[p[1], p[2]]) for p in itertools.product(range(3), repeat=3)}
    def exact(u):
        through = {p: c for p, c in chance.items() if p[:len(u)] == u}
        return sum(c for p, c in through.items() if sum(p) % 2 == 0)/sum(through.values())
    every, shares = list(chance), np.array(list(chance.values()))
    def error(n, seed):
        drawn = [every[i] for i in np.random.default_rng(seed).choice(len(every), n, p=shares)]
        trie = reasoning.Trie(drawn, [sum(p) % 2 == 0 for p in drawn])
        return np.mean([(trie.value[trie.find(u)] - exact(u))**2 for u in ((), (0,), (1,), (0, 0), (1, 1)) if trie.find(u) >= 0])
    few, many = (np.sqrt(np.mean([error(n, seed) for seed in range(20)])) for n in (100, 10_000))
    assert 6 < few/many < 16 and many < .02


def test_values_review_counts_and_mends():
    end = {ord("z")}
    given = [made("abz", 1), made("acz", 0), made("ab", 0, finished=False), made("", 0, answer=None), made("acz", 0), made("azb", 1)]
    with pytest.warns(UserWarning, match="1 continue behind an end-of-sequence"): labels = label_samples(given, "tvm", eos_ids=end)
    counts = problem_trie(given, end)[1]
    assert [counts[k] for k in ("samples", "correct", "empty", "truncated", "behind_eos", "no_answer", "repeated", "mixed")] == [6, 2, 1, 1, 1, 1, 1, 0]
    assert same(labels, [[2/5, 1/2, 1], [2/5, 0, 0], [2/5, 1/2], [], [2/5, 0, 0], [2/5, 1, NAN]])
    with pytest.warns(UserWarning, match="cut off and count as incorrect"):
        assert label_samples([made("ab", 1)], "tvm", eos_ids=end)[0].tolist() == [0, 0]
    with pytest.warns(UserWarning, match="their label is the mean"):
        assert same(label_samples([made("az", 1), made("az", 0), made("az", 0)], "ovm"), [[1/3]*2]*3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        label_samples(given[:5], "tvm", eos_ids=end)
    with pytest.raises(ValueDataError, match="one problem"): problem_trie([made("a", 1), made("a", 1, problem="q")])


def test_values_bad_kinds_and_data_are_named():
    few = [made("abz", 1), made("acz", 0)]
    for call, message in ((lambda: label_samples(few, "prm"), "must be one of tvm"), (lambda: label_samples(few, "prm_hard"), "give `delimiter`"),
                          (lambda: label_samples(few, "prm_hard", block=0), "must be at least 1"),
                          (lambda: value_data(few, "prm_soft", [9]), "no step ends at the delimiter"),
                          (lambda: value_data([made("", 0)], "tvm"), "only empty ones"),
                          (lambda: value_data(few, [[0, 0, 1.5], [0, 0, 0]]), "outside"),
                          (lambda: value_data(few, [[0, 0], [0, 0, 0]]), "sample 0 has 3 tokens"),
                          (lambda: value_data(few, [[NAN]*3]*2), "no token has a label"),
                          (lambda: value_data(few, "ovm", prior=(1, 1)), "have counts"),
                          (lambda: beta_posterior([3], [2]), "between 0 and count")):
        with pytest.raises(ValueError, match=message): call()


def test_values_from_a_poisoned_file(tmp_path):
    path = tmp_path/"t.sqlite"
    file = reasoning.TrajectoryFile(path)
    file.append([made("abz", 1), made("acz", 0, answer=None)], [made("az", 1, problem="q")])
    found = value_data(file, "tvm")
    assert len(found) == 3 and found.counts["no_answer"] == 1
    again = value_data(reasoning.TrajectoryFile(path), "tvm")
    assert all((a == b).all() for a, b in zip(found.labels, again.labels))
    file.file.close()
    whole = path.read_bytes()
    assert b"null" in whole
    path.write_bytes(whole.replace(b"null", b"nuul"))
    with pytest.raises(core.CorruptFileError, match="t.sqlite is damaged"):
        value_data(reasoning.TrajectoryFile(path), "tvm")
    path.write_bytes(whole)
    text = file.file.get("q")
    for bad, name in ((text.replace("0.0", "NaN", 1), "must be a finite number"),
                      (text.replace('"7"', "7"), "answer must be text"), (text[:50], "problem 'q'")):
        assert bad != text
        file.file.put(dict(q=bad))
        with pytest.raises(core.CorruptFileError, match=name):
            value_data(reasoning.TrajectoryFile(path), "tvm")


def test_values_beta_posterior_is_scipys():
    right, count = np.array([0, 1, 7]), np.array([0, 3, 9])
    mean, low, high, weight = beta_posterior(right, count, (2, 3), level=.9)
    exact = stats.beta(2 + right, 3 + count - right)
    assert np.allclose(mean, exact.mean()) and np.allclose([low, high], exact.interval(.9)) and np.allclose(weight, count/(count + 5))


def test_values_rollout_labels_are_plain_rollouts(toy, paths):
    t = max(paths, key=lambda t: len(t.response_ids))
    told = prm_labels_by_rollout(toy, [t], lambda ids: 3 not in ids, block=2, num_samples=8, max_total=5, temperature=1.5)[0]
    places = [k for k in range(1, len(t.response_ids) + 1) if k % 2 == 0 or k == len(t.response_ids)]
    r = lm.rollouts(toy, t.prompt_ids, t.response_ids, num_samples=8, positions=places, max_total=5, temperature=1.5)
    for a, place in enumerate(places):
        share = np.mean([bool(end) and 3 not in list(ids) for end, ids in zip(r.finished[a], r.responses(a))])
        assert told[place - 1] == pytest.approx(share)
    assert np.isnan(told[[i for i in range(len(told)) if i + 1 not in places]]).all()


def test_values_rollouts_need_room(toy, paths):
    long = max(paths, key=lambda t: len(t.response_ids))
    with pytest.raises(ValueError, match="longer than max_total"): prm_labels_by_rollout(toy, [long], lambda ids: True, block=1, num_samples=2, max_total=len(long.response_ids) - 1)


def test_reported_values_steps_are_read_once_and_checked():
    twice = [made([3, 4, 9], 1), made([3, 4, 9], 1, problem="q")]
    for x in value_data(twice, "prm_hard", iter([3])).labels: assert same([x], [[1, NAN, 1]])
    for bad in (dict(block=True), dict(delimiter=()), dict(block=0), dict(block=1.5), dict(delimiter=3), dict(delimiter=";"), dict(delimiter=[3], block=2),
                dict(delimiter=[1.7]), dict(delimiter=[4, -1]), dict(delimiter=[3.]), dict(delimiter=["3"]), dict(delimiter=[None])):
        with pytest.raises(ValueError, match="delimiter|block"): label_samples(twice[:1], "prm_hard", **bad)
    assert same(label_samples(twice[:1], "prm_soft", block=np.int64(2)), [[NAN, 1, 1]])
    assert len(value_data([made([3, 4, 5], 1)], "prm_soft", {5})) == 1         # a delimiter at the very end is one


# ---- details that a mutant of the module has lost

def named(error, message, call, *given, **options):
    with pytest.raises(error, match=message): call(*given, **options)


def test_values_steps_are_named_when_they_are_none():
    few = [made("abz", 1)]
    named(ValueError, "^kind 'prm': it must be one of tvm, ovm, orm, prm_hard, prm_soft$", label_samples, few, "prm")
    named(ValueError, "^prm_soft has labels where steps end", label_samples, few, "prm_soft")
    for block in (True, 1.5, "2", 2.): named(ValueError, "^block = .*: it must be a whole number", label_samples, few, "prm_hard", block=block)
    for block in (0, -1): named(ValueError, "^block = .*: it must be at least 1", label_samples, few, "prm_hard", block=block)
    named(ValueError, "not both", label_samples, few, "prm_hard", [3], block=1)
    for delimiter in (3, ";", None): named(ValueError, "^delimiter = ", step_ends, reasoning.Trie([[1]]), delimiter)
    named(ValueError, "^delimiter: there are no token ids", label_samples, few, "prm_hard", [])
    assert same(label_samples(few, "tvm", [], block=3), [[1, 1, 1]])                # kinds without steps do not look at them


def test_values_step_ends_by_hand():
    trie = reasoning.Trie([[5, 6, 5, 7], [], [6], [5, 6, 6, 6, 5]])
    assert step_ends(trie, [6]).tolist() == [False, True, False, True, True, False, True, True, True, True]
    assert step_ends(trie, np.array([5, 7])).tolist() == [True, False, True, True, True, True, False, False, False, True]
    assert step_ends(trie, block=2).tolist() == [False, True, False, True, True, False, True, False, True, True]
    assert step_ends(trie, block=1).all() and step_ends(trie, {99}).sum() == 3


def test_values_step_ends_by_a_function():
    "It is asked with the tokens of the step so far: one of two tokens, and one that knows a pair of tokens."
    trie = reasoning.Trie([[5, 6, 5, 7], [], [6], [5, 6, 6, 6, 5], [5, 6, 5, 7], [5, 6, 5, 8, 6, 6]])
    assert step_ends(trie, lambda step: step[-1] == 6).tolist() == step_ends(trie, [6]).tolist()
    asked = []
    def pair(step):
        asked.append(list(step))
        return step[-2:] == [6, 6] or step[-2:] == [5, 7]
    assert step_ends(trie, pair).tolist() == [False]*3 + [True] + [True] + [False, False, True, False, True] + [False]*3 + [True] + [False]*5 + [True]
    assert [5, 6, 5, 7] in asked and [6, 5] in asked and [] not in asked and asked.count([5, 6, 5, 7]) == 1
    assert step_ends(trie, lambda step: len(step) == 2).tolist() == step_ends(trie, block=2).tolist() and step_ends(trie, pair).dtype == bool


def test_values_samples_of_one_step_are_counted():
    few = [made([1, 6, 2], 1), made([3, 2], 0), made([], 0), made([6], 1), made([1, 2, 6], 1)]
    with pytest.warns(UserWarning, match="of 5 samples 3 have no step that ends before"): label_samples(few, "prm_soft", [6])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        label_samples(few, "prm_soft", block=9)
        label_samples(few[:1], "prm_soft", [6])
    def refused(words, ends):
        with pytest.raises(ValueDataError, match=words): value_data(few[:2], "prm_soft", ends)
    class Named:
        plain = "\n\n"
        def __call__(self, step): return False
    def never(step): return False
    refused(r"^no step ends at the delimiter \[7, 9\] in any of 2 samples", {9, 7})
    refused(r"^no step ends at the delimiter \[1[0-7, ]+\] in any", range(10, 30))
    refused("^no step ends at the delimiter " + re.escape(repr("\n\n")), Named())
    refused("^no step ends at the delimiter <function .*never", never)
    assert value_data(few, "prm_soft", [6]).counts["one_step"] == 3


def test_values_labels_of_weighted_tries_are_those_of_copies():
    paths, right, weights = [[1, 2], [1, 2], [1, 3], [4], [1, 2]], [1, 0, 1, 0, 0], [2, 1, 3, 1, 2]
    light = reasoning.Trie(paths, right, weights)
    copies = [i for i, w in enumerate(weights) for _ in range(w)]
    first = np.cumsum([0, *weights[:-1]])
    for kind in LABELS:
        heavy = by_trie([paths[i] for i in copies], [right[i] for i in copies], kind, 1)
        assert same(np.split(labels_flat(light, kind, block=1), light.starts[1:-1]), [heavy[i] for i in first])
    assert {labels_flat(light, kind, block=1).dtype for kind in LABELS} == {np.dtype(np.float32)}


def test_values_review_by_hand():
    end = {8, 9}
    given = [made([1, 9], 1), made([1, 8, 9, 3], 1), made([1, 2], 1), made([9], 0, answer=None), made([], 0, finished=False), made([1, 9], 0), made([2, 9], 0, finished=False)]
    mended, counts = review(given, end)
    assert [(t.response_ids, len(t.logprobs), t.finished, t.correct) for t in mended] == [([1, 9], 2, True, True), ([1, 8], 2, True, True), ([1, 2], 2, False, False), ([9], 1, True, False),
                                                                                          ([], 0, False, False), ([1, 9], 2, True, False), ([2, 9], 2, True, False)]
    assert counts == dict(samples=7, correct=2, tokens=11, empty=1, truncated=1, called_correct=1, behind_eos=1, no_answer=1, repeated=0, mixed=0)
    believed, told = review(given)
    assert [t.finished for t in believed] == [True, True, True, True, False, True, False] and [t.correct for t in believed] == [True, True, True, False, False, False, False]
    assert told == dict(samples=7, correct=3, tokens=13, empty=1, truncated=1, called_correct=0, behind_eos=0, no_answer=1, repeated=0, mixed=0)
    assert problem_trie(given, end)[1] == counts | dict(repeated=1, mixed=2)
    assert review([])[1] == dict.fromkeys(COUNTS, 0)


def test_values_doubts_are_told_in_one_warning():
    given = [made([1, 9], 1), made([1, 9, 3], 0), made([1, 2], 1)]
    with pytest.warns(UserWarning) as seen: label_samples(given, "tvm", eos_ids=[9])
    assert [str(w.message) for w in seen] == [
        "of 3 samples 1 are called correct but have no end-of-sequence token; they were cut off and count as incorrect; 1 continue behind an end-of-sequence token and are cut there; their outcome is kept, "
        "though it may have been read behind it; 2 have the very tokens of another sample with the other label; their label is the mean"]
    with pytest.warns(UserWarning, match="of 3 samples 1 are called") as seen: value_data(given, "tvm", eos_ids=[9])
    assert len(seen) == 1


def test_values_beta_posterior_by_default_and_at_its_edges():
    mean, low, high, weight = beta_posterior([2, 0], [3, 0])
    exact = stats.beta([3, 1], [2, 1])
    assert np.allclose(mean, exact.mean()) and np.allclose([low, high], exact.interval(.95)) and weight.tolist() == [.6, 0]
    for prior in ((0, 1), (1, 0), (-1, 2), (2, -1)): named(ValueError, "^prior = .* must be positive", beta_posterior, [1], [2], prior)
    for level in (0, 1, -.5, 1.5): named(ValueError, "^level = ", beta_posterior, [1], [2], level=level)
    for correct in (-1, 3, [1, -1], [3, 1]): named(ValueError, "between 0 and count|^correct has shape", beta_posterior, correct, [2, 2])
    assert np.allclose(beta_posterior([1], [2], (.5, .5))[0], [.5])


class Rolled:
    "Rollouts of one solution that are known: `texts` [positions][samples], None where one did not end."
    def __init__(self, texts): self.texts, self.finished = texts, [[t is not None for t in row] for row in texts]
    def responses(self, a): return [t or [3, 3] for t in self.texts[a]]


def test_values_rollout_labels_by_hand(monkeypatch):
    "What is asked of the sampler, what the graders see, shares and hard labels; each text is graded once."
    asked, graded = [], []
    def many(generator, pairs, **options):
        asked.append((generator, pairs, options))
        return [Rolled([[[3], [4], None, [3]], [[4]]*4][:len(p)]) for p in options["positions"]]
    monkeypatch.setattr(lm, "rollouts_many", many)
    given = [made([1, 2], 1), made([], 0), made([5], 1)]
    def grade(ids):
        graded.append(ids)
        return ids == [3]
    found = prm_labels_by_rollout(MODEL, iter(given), grade, block=1, num_samples=4, max_total=7, temperature=.3)
    assert same(found, [[.5, 0], [], [.5]]) and graded == [[3], [4]]*2 and {x.dtype for x in found} == {np.dtype(np.float32)}
    assert asked == [(MODEL, [([1, 2], [1, 2]), ([1, 2], [5])], dict(num_samples=4, positions=[[1, 2], [1]], max_total=7, temperature=.3))]
    assert same(prm_labels_by_rollout(MODEL, given, grade, block=1, num_samples=4, hard=True), [[1, 0], [], [1]]) and asked[-1][2]["max_total"] == 256
    assert same(prm_labels_by_rollout(MODEL, given, [grade, None, lambda ids: True], delimiter=[1], num_samples=4), [[.5, 0], [], [.75]])
    assert same(prm_labels_by_rollout(MODEL, [made([1, 2], 1)], grade, block=2), [[NAN, .25]]) and asked[-1][2]["num_samples"] == 8
    before = len(asked)
    assert same(prm_labels_by_rollout(MODEL, [made([], 0)], grade, block=1), [[]]) and prm_labels_by_rollout(MODEL, [], [], block=1) == [] and len(asked) == before
    named(ValueError, "^2 graders for 1 traj", prm_labels_by_rollout, MODEL, [made([1], 1)], [grade]*2, block=1)
    named(ValueError, "^prm_hard has labels where steps end", prm_labels_by_rollout, MODEL, given, grade)
    named(ValueError, "^2 trajectories, the first of them 1, are longer than max_total = 1", prm_labels_by_rollout, MODEL, [given[2], given[0], given[0]], grade, block=1, max_total=1)


def rows_of(data): return [(x.tolist(), int(lead), y.tolist(), c.tolist(), float(w), int(p)) for x, lead, y, c, w, p in zip(data.ids, data.lead, data.labels, data.confidence, data.weights, data.problem)]


def test_values_data_by_hand():
    given = [made([3, 9], 1), made([4, 9], 1, problem="q"), made([3, 9], 0), made([], 0, finished=False), made([3, 5, 9], 1), made([4, 9], 1, problem="q")]
    with pytest.warns(UserWarning, match="2 have the very tokens"): data = value_data(given, "tvm", eos_ids=[9])
    assert rows_of(data) == [([1, 2, 3, 9], 2, pytest.approx([2/3, .5]), [1, 1], 2, 0), ([1, 2, 3, 5, 9], 2, pytest.approx([2/3, 1, 1]), [1, 1, 1], 1, 0), ([1, 2, 4, 9], 2, [1, 1], [1, 1], 2, 1)]
    assert (data.kind, len(data)) == ("tvm", 3) and data.ids[0].dtype == np.int64 and {x.dtype for x in data.labels + data.confidence} == {np.dtype(np.float32)}
    assert data.counts == dict(samples=6, correct=4, tokens=11, empty=1, truncated=0, called_correct=0, behind_eos=0, no_answer=0, repeated=2, mixed=2)
    with pytest.warns(UserWarning): each = value_data(given, "tvm", eos_ids=[9], unique=False)
    assert [row[4] for row in rows_of(each)] == [1]*5 and [row[0][2:] for row in rows_of(each)] == [[3, 9], [3, 9], [3, 5, 9], [4, 9], [4, 9]] and each.problem.tolist() == [0, 0, 0, 1, 1]
    with pytest.warns(UserWarning): sure = value_data(given, "prm_soft", block=1, prior=(1., 2.))
    assert same(sure.confidence, [[3/6, 2/5], [3/6, 1/4, 1/4], [2/5, 2/5]]) and sure.kind == "prm_soft"
    assert by_problem(given) == [[0, 2, 3, 4], [1, 5]] and by_problem([]) == []


def test_values_given_labels_by_hand():
    given = [made([3, 9], 1), made([3, 9], 0), made([3, 5], 1), made([4], 1, problem="q")]
    labels = [[.5, NAN], [1, NAN], [0, 1], [.25]]
    with pytest.warns(UserWarning): data = value_data(given, labels)
    assert same(data.labels, [[.75, NAN], [0, 1], [.25]]) and data.kind == "given" and data.weights.tolist() == [2, 1, 1]
    with pytest.warns(UserWarning): half = value_data(given, [[NAN, .5], [1, .25], [0, 1], [.25]])
    assert same(half.labels, [[1, .375], [0, 1], [.25]]) and {x.dtype for x in half.labels} == {np.dtype(np.float32)}
    named(ValueDataError, "^labels of 3 samples were given for 4", value_data, given, labels[:3])
    named(ValueDataError, r"^labels\[2\] has shape \(1,\); sample 2 has 2 tokens", value_data, given, [*labels[:2], [0], labels[3]])
    for bad in (-.5, 1.5, float("inf")): named(ValueDataError, r"^labels\[1\] holds a number outside", value_data, given, [labels[0], [bad, NAN], *labels[2:]])
    named(ValueError, "^prior: only labels that are shares", value_data, given, labels, prior=(1, 1))
    for kind in ("ovm", "orm"): named(ValueError, "^prior: only labels that are shares", value_data, given, kind, prior=(1, 1))
    named(ValueDataError, "^there are no tokens to learn from", value_data, [], "tvm")
    named(ValueDataError, "^no token has a label", value_data, given[:1], [[NAN, NAN]])
    with pytest.warns(UserWarning): assert len(value_data(given, [[NAN]*2, [NAN]*2, [0, NAN], [NAN]])) == 3       # one label is enough


def test_values_a_step_that_ends_nowhere_is_found():
    given = [made([3, 9], 1), made([3, 5], 0, problem="q")]
    named(ValueDataError, r"^no step ends at the delimiter \[6, 7, 8, 11, 12, 13, 14, 15\] in any of 2 samples", value_data, given, "prm_hard", [15, 6, 7, 8, 16, 11, 12, 13, 14])
    assert len(value_data(given, "prm_hard", [5, 77])) == 2 and len(value_data(given, "tvm", [77])) == 2
    named(ValueDataError, "^there are no tokens", value_data, [made([], 0)], "prm_hard", [5])
    named(ValueDataError, "several", problem_trie, [given[0], given[1]])


@settings(max_examples=40)
@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=4), st.integers(0, 10**6)), min_size=1, max_size=9))
def test_values_given_labels_are_means_over_copies(rows):
    given = [made(path, 0) for path, _ in rows]
    labels = [np.where((x := np.random.default_rng(seed).random(len(path))) < .3, np.nan, x).astype(np.float32) for path, seed in rows]
    labels[0][0] = .5
    data = value_data(given, labels)
    for found, response in zip(data.labels, (x[2:].tolist() for x in data.ids)):
        of = np.array([y for (path, _), y in zip(rows, labels) if path == response])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            assert same([found], [np.nanmean(of, 0)])


def test_values_in_the_precision_of_labels():
    given = [made([3, 9, 4], 1), made([3, 9], 0)]
    with pytest.warns(UserWarning): assert {x.dtype for x in label_samples(given, "tvm", eos_ids=[9])} == {np.dtype(np.float32)}
    with pytest.warns(UserWarning): assert {x.dtype for x in value_data(given, "tvm", eos_ids=[9], prior=(1, 1)).confidence} == {np.dtype(np.float32)}
    assert value_data(given[:1], [[1 + 1e-9, 0, 0]]).labels[0].tolist() == [1, 0, 0]                 # one, in float32
    coarse = np.array([.1, 2.3], np.float32), np.array([1.7, 3.1], np.float32)
    for both in ((coarse[0], coarse[1].astype(float)), (coarse[0].astype(float), coarse[1]), coarse):
        assert np.array_equal(beta_posterior(*both, (.3, .7)), beta_posterior(*(x.astype(float) for x in coarse), (.3, .7)))


def test_values_of_light_samples_and_of_few():
    light = reasoning.Trie([[1], [1], [2]], [1, 0, 1], [.25, .25, .5])
    assert labels_flat(light, "ovm").tolist() == labels_flat(light, "orm").tolist() == [.5, .5, 1]
    assert review([made([9, 3], 0), made([9, 3, 3], 0)], [9])[1]["behind_eos"] == 2
    assert len(value_data([made([3, 5], 1), made([4, 4], 0, problem="q")], "prm_hard", [3])) == 2                # a step ends in the first problem only
    assert ValueData([], np.array([]), [], [], np.array([]), np.array([]), {}).kind == "given"


def test_values_one_correct_rollout_makes_a_hard_label(monkeypatch):
    monkeypatch.setattr(lm, "rollouts_many", lambda *a, **k: [Rolled([[[3], [4], None, [4]]])])
    assert prm_labels_by_rollout(MODEL, [made([5], 1)], lambda ids: ids == [3], block=1, num_samples=4, hard=True)[0].tolist() == [1]
