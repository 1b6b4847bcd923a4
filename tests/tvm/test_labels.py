"Labels: by hand and against a slow reference, doubtful samples, one gradient for outcomes and values, and mutants."
import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from tokenstudy import core, lm, reasoning
from tokenstudy.tvm.labels import LABELS, ValueDataError, beta_posterior, label_samples, labels_flat, prm_labels_by_rollout, problem_trie, value_data
from tvm.toys import NAN, ids, made, same, samples


@pytest.fixture(scope="module")
def toy(): return lm.tiny_lm("llama", vocab=8)


@pytest.fixture(scope="module")
def paths(): return samples()


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
                          (lambda: label_samples(few, "prm_hard", block=0), "must be ≥ 1"),
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


def test_values_steps_are_read_once_and_checked():
    twice = [made([3, 4, 9], 1), made([3, 4, 9], 1, problem="q")]
    for x in value_data(twice, "prm_hard", iter([3])).labels: assert same([x], [[1, NAN, 1]])
    for bad in (dict(block=True), dict(delimiter=()), dict(block=0), dict(block=1.5), dict(delimiter=3), dict(delimiter=";"), dict(delimiter=[3], block=2)):
        with pytest.raises(ValueError, match="delimiter|block"): label_samples(twice[:1], "prm_hard", **bad)
    assert same(label_samples(twice[:1], "prm_soft", block=np.int64(2)), [[NAN, 1, 1]])
    assert len(value_data([made([3, 4, 5], 1)], "prm_soft", {5})) == 1         # a delimiter at the very end is one
