"The trie equals one made of dictionaries, and a faulty one does not."
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstudy import reasoning as r
from tokenstudy.reasoning import trie as trie_


def slow_trie(paths, right, weights):
    out = {}
    for p, good, w in zip(paths, right, weights):
        for k in range(len(p) + 1):
            c, g = out.get(tuple(p[:k]), (0, 0))
            out[tuple(p[:k])] = c + w, g + w*good
    return out


def as_dict(trie): return {tuple(trie.tokens(i)): (c, g) for i, (c, g) in enumerate(zip(trie.count.tolist(), trie.correct.tolist()))}


some_paths = st.lists(st.tuples(st.lists(st.integers(0, 3) | st.just(2**31 - 1), max_size=6), st.booleans(), st.integers(1, 4)), min_size=1, max_size=25)


@settings(max_examples=100)
@given(some_paths)
def test_trie_equals_a_dictionary(rows):
    paths, right, weights = zip(*rows)
    trie = r.Trie(paths, right, weights)
    assert as_dict(trie) == slow_trie(paths, right, weights)
    for i, p in enumerate(paths):
        assert [trie.tokens(n) for n in trie.nodes(i)] == [list(p[:k + 1]) for k in range(len(p))]
        assert trie.find(p) == trie.leaf[i] and trie.depth[trie.leaf[i]] == len(p)
    for node in range(len(trie)):
        assert all(trie.parent[c] == node for c in trie.children(node)) and len(set(trie.token[trie.children(node)])) == len(trie.children(node))
    ends = np.bincount(trie.leaf, trie.weights, len(trie))
    assert (np.bincount(trie.parent[1:], trie.count[1:], len(trie)) + ends == trie.count).all()
    assert (trie.parent[1:] < np.arange(1, len(trie))).all()
    order = np.random.default_rng(0).permutation(len(paths))
    assert as_dict(r.Trie([paths[i] for i in order], np.array(right)[order], np.array(weights)[order])) == as_dict(trie)
    flat = np.array([t for p in paths for t in p], np.int64), trie.starts
    assert as_dict(r.Trie(flat, right, weights)) == as_dict(trie)
    fractions = r.Trie(paths, right, np.array(weights)/4)
    assert np.allclose(fractions.count*4, trie.count) and np.allclose(fractions.value, trie.value)


def test_trie_by_hand():
    "papers/tvm.md §5."
    paths, right = ["abcd", "abce", "abf", "ag", "abcd", "h"], [1, 0, 1, 0, 1, 0]
    trie = r.Trie([[ord(c) for c in p] for p in paths], right)
    value = {"".join(map(chr, trie.tokens(i))): v for i, v in enumerate(trie.value)}
    assert value == {"": 3/6, "a": 3/5, "ab": 3/4, "abc": 2/3, "abcd": 1, "abce": 0, "abf": 1, "ag": 0, "h": 0}
    tvm = sum((.5 - trie.value[n])**2 for i in range(6) for n in trie.nodes(i))
    outcome = sum((.5 - right[i])**2 for i in range(6) for n in trie.nodes(i))
    assert math.isclose(tvm, 1.88333, abs_tol=1e-5) and math.isclose(outcome - tvm, 2.61667, abs_tol=1e-5)
    alone = r.Trie([[1, 2, 3]], [1])
    assert alone.value.tolist() == [1]*4                                    # one path: its outcome everywhere
    first, weights = trie.unique()
    assert as_dict(r.Trie([[ord(c) for c in paths[i]] for i in first], np.array(right)[first], weights)) == as_dict(trie)


@pytest.mark.parametrize("fault", ["the node is not part of the key", "a lost collision", "a parent too high"])
def test_trie_check_sees_faults(monkeypatch, fault):
    "A trie that confuses prefixes, loses a node or hangs it elsewhere differs from the dictionary's."
    def grow(tokens, starts, keys, values, token, parent, depth, node_of):
        children, nodes = {}, 1
        for i in range(len(starts) - 1):
            node = 0
            for j in range(starts[i], starts[i + 1]):
                key = {"the node is not part of the key": (depth[node], tokens[j])}.get(fault, (node, tokens[j]))
                if fault == "a lost collision" and node and tokens[j] == 2: key = (node, 1)
                if key not in children:
                    children[key] = nodes
                    up = parent[node] if fault == "a parent too high" and node else node
                    token[nodes], parent[nodes], depth[nodes] = tokens[j], max(up, 0), depth[node] + 1
                    nodes += 1
                node = children[key]
                node_of[j] = node
        return nodes
    paths, right = [[0, 1, 2], [1, 1, 2], [0, 1, 1], [2, 2, 1]], [1, 0, 0, 1]
    monkeypatch.setattr(trie_, "_compiled", lambda function: grow if function is trie_._grow else function)
    assert as_dict(r.Trie(paths, right)) != slow_trie(paths, right, [1]*4)


def test_trie_kernel_equals_plain_python(monkeypatch):
    draw = np.random.default_rng(1)
    paths = [draw.integers(0, 50, draw.integers(0, 40)).tolist() for _ in range(60)]
    right = draw.integers(0, 2, 60)
    compiled = r.Trie(paths, right)
    assert as_dict(compiled) == {k: (int(c), int(g)) for k, (c, g) in slow_trie(paths, right, [1]*60).items()}


def test_nodes_and_paths_behind_the_last_are_named():
    trie = r.Trie([[1, 2], [1, 3]])
    assert len(trie) == 4 and trie.tokens(3) == [1, 3] and len(trie.nodes(1)) == 2
    for node in (4, 5):
        for read in (trie.tokens, trie.children):
            with pytest.raises(ValueError, match=f"node = {node}: this trie has 4 nodes"): read(node)
    for path in (2, 3):
        with pytest.raises(ValueError, match=f"path = {path}: this trie has 2 paths"): trie.nodes(path)


def test_reported_trie_bad_input():
    for bad, message in ((dict(paths=[]), "at least one"), (dict(paths=[[-1]]), "must lie"), (dict(paths=[[2**31]]), "must lie"), (dict(paths=[[1]], correct=[.5, 1]), "one for each path"),
                         (dict(paths=[[1]], correct=[-1]), "correct must lie"), (dict(paths=[[1]], weights=[-1]), "not positive"), (dict(paths=[[1]], correct=[math.nan]), "not finite"),
                         (dict(paths=(np.array([1, 2]), [0, 3])), "starts must rise"),
                         (dict(paths=[[1.7, 2.2]]), "whole numbers"), (dict(paths=[[1], ["a"]]), "whole numbers"), (dict(paths=[[1], [1]], weights=[2**62]*2), "2..53")):
        with pytest.raises(ValueError, match=message): r.Trie(**bad)
    with pytest.raises(ValueError, match="no labels"): r.Trie([[1]]).value
    made = {p: [r.Trajectory(p, [1, 5], [7, 8 + i, 2], [-.5]*3, str(i), i == 0, True) for i in range(3)] for p in "ab"}
    with pytest.raises(ValueError, match="several"): r.trie_of(made["a"] + made["b"])
    assert r.trie_of(made["a"]).value[0] == 1/3
    assert r.Trie([[1], [1], [2]], [1, 0, 1]).mixed().tolist() == [0, 1]


@settings(max_examples=60)
@given(some_paths)
def test_a_weighted_trie_made_unique_is_the_same(rows):
    "Dropping copies keeps every node's weight and value, whatever the weights are."
    paths, correct, weights = zip(*rows)
    labels = [sum(p) % 2 for p in paths]                          # copies agree
    trie = r.Trie(paths, labels, weights)
    first, times = trie.unique()
    assert as_dict(r.Trie([paths[i] for i in first], np.array(labels)[first], times)) == as_dict(trie)
    assert times.sum() == sum(weights) and len({paths[i].__str__() for i in first}) == len(first)


# ---- details that a mutant of the module has lost

def test_trie_types_and_the_root():
    trie = r.Trie([[5], [5, 6], []], [1, 0, 1])
    assert (trie.token[0], trie.parent[0], trie.depth[0]) == (-1, -1, 0) and trie.leaf.tolist() == [1, 2, 0]
    assert len(trie.token) == len(trie.parent) == len(trie.depth) == len(trie.count) == 3 and len(trie.order) == 2 and len(trie.first) == 4
    assert {x.dtype for x in (trie.token, trie.parent, trie.depth, trie.node_of, trie.leaf, trie.order)} == {np.dtype(np.int32)}
    assert {x.dtype for x in (trie.starts, trie.count, trie.correct, trie.weights, trie.labels, trie.first)} == {np.dtype(np.int64)}
    for whole in (None, [1, 2, 3], [True]*3, np.ones(3, np.uint8)):
        assert {x.dtype for x in (r.Trie([[5], [5, 6], []], [1, 0, 1], whole).count, r.Trie([[1]]*3, weights=whole).unique()[1])} == {np.dtype(np.int64)}
    shares = r.Trie([[5], [5, 6]], [.5, 1], np.float32([.5, .25]))
    assert {x.dtype for x in (shares.count, shares.correct, shares.weights, shares.labels, shares.value)} == {np.dtype(float)}
    assert shares.count.tolist() == [.75, .75, .25] and shares.value.tolist() == [2/3, 2/3, 1]
    assert r.Trie((np.array([5, 6], np.uint8), np.array([0, 1, 2], np.int32))).starts.dtype == np.int64


def test_trie_children_are_all_there(monkeypatch):
    "Whatever was in memory before: each child is found once, in the order of their numbers."
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 77, dtype))
    trie = r.Trie([[3], [4, 1], [5], [4, 2], [3, 1], [4, 1, 7]])
    for node in range(len(trie)): assert trie.children(node).tolist() == np.flatnonzero(trie.parent == node).tolist()
    assert sorted(trie.order) == list(range(1, len(trie)))


def test_trie_of_many_nodes():
    "The table is searched in linear time: with keys that fall into one place this would take minutes."
    long = np.arange(200_000) % 50_000
    ids = np.concatenate([long, long])
    ids[-1] += 1
    trie = r.Trie((ids, [0, len(long), len(ids)]), [1, 0])
    assert len(trie) == len(long) + 2 and trie.count[-3:].tolist() == [2, 1, 1] and trie.value[-2:].tolist() == [1, 0]


def test_reported_starts_that_are_no_whole_numbers_are_refused():
    "The flat form of [[1.7]]: starts were cut to whole numbers in silence."
    for starts in ([0, 1.5, 2], np.array([0, 1.2, 2], np.float32), ["0", "2"]):
        with pytest.raises(ValueError, match="^starts must be whole numbers"): r.Trie((np.array([1, 2]), starts))
    assert r.Trie((np.array([1, 2]), np.array([0, 1, 2], np.uint8))).starts.tolist() == [0, 1, 2]


def test_trie_find_and_mixed_by_hand():
    trie = r.Trie([[1, 2], [3]])
    assert [trie.find(x) for x in ([], [1], [1, 2], [3], [2], [1, 3], [3, 3], [1, 2, 3])] == [0, 1, 2, 3, -1, -1, -1, -1]
    paths = [[1], [2], [1], [2], [3], [1, 2], [1]]
    assert r.Trie(paths, [1, 0, 0, 0, 1, 1, 1]).mixed().tolist() == [0, 2, 6]
    for weights in ([.5]*7, [3]*7): assert r.Trie(paths, [1, 0, 1, 0, 1, 1, 1], weights).mixed().tolist() == []
    assert r.Trie([[1], [1]], [.5, .5]).mixed().tolist() == [0, 1] and r.Trie([[], []], [0, 1]).mixed().tolist() == [0, 1]


def test_trie_bad_input_is_named():
    two = np.array([1, 2])
    for starts in ([], [1, 2], [0, 3, 2], [0, 1], [0, 3]):
        with pytest.raises(ValueError, match="^starts must rise from 0"): r.Trie((two, starts))
    for bad, message in ((dict(paths=[["a"]]), "^tokens must be whole"), (dict(paths=[[1], [2]], correct=[1]), "^correct must hold 2 numbers"), (dict(paths=[[1], [2]], weights=[1]), "^weights must hold 2 numbers"),
                         (dict(paths=[[1], [2]], weights=[1, 0]), r"^weights\[1\] is not positive"), (dict(paths=[[1], [2]], correct=[1, 1.5]), "^correct must lie"), (dict(paths=[[1], [2]], correct=[1, -.5]), "^correct must lie"),
                         (dict(paths=[[1], [2]], weights=[1, math.inf]), r"^weights\[1\] is not finite"), (dict(paths=[[1], [2]], correct=[1, math.nan]), r"^correct\[1\] is not finite")):
        with pytest.raises(ValueError, match=message): r.Trie(**bad)
    assert r.Trie([[1], [1]], weights=[2**52, 2**52]).count.tolist() == [2**53]*2
    with pytest.raises(ValueError, match="their sum is above"): r.Trie([[1], [1]], weights=[2**52, 2**52 + 2])
