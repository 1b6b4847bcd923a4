"Verification of blocks and trees: the leftover by hand, trees that are grown, texts from tables, decisions that are certain."
from collections import Counter

import numpy as np
import pytest

from tokenstudy.multidraft.decoding import TokenLevel
from tokenstudy.multidraft.canonical import TruncatedLP
from tokenstudy.multidraft.drafts import Distribution, Tree
from tokenstudy.multidraft.optimal import Optimal
from tokenstudy.multidraft.schemes import NaiveLookup, Scheme, SingleDraft, SpecTr, all_branches
from tokenstudy.multidraft.verification import Block, LeafToRoot, TableDistributions, Traversal, decode_table, grow, leftover

LEVELS = {(): [.5, .25, .25], (0,): [.2, .8, 0], (1,): [0, .1, .9], (2,): [1, 0, 0]}


def table(text): return LEVELS.get(tuple(text[-1:]), [.5, .3, .2])


def uniform(text): return [1/3, 1/3, 1/3]


def test_leftover_by_hand():
    "p q - s where it is positive: its mass m, m / (m + 1 - p), and itself, normalised."
    q, s = np.array([.5, .3, .2]), np.array([.2, .2, .6])
    p, left = leftover(1., q, s)
    assert p == 1 and left == pytest.approx([.75, .25, 0])
    p, left = leftover(.5, q, s)                                 # .25 - .2, and nothing else
    assert p == pytest.approx(.05/.55) and left.tolist() == [1, 0, 0] and isinstance(p, float)
    p, left = leftover(.8, q, s)                                 # .4 - .2, .24 - .2
    assert p == pytest.approx(.24/.44) and left == pytest.approx([5/6, 1/6, 0])
    assert leftover(.3, q, s) == (0., None) and leftover(1., q, q) == (0., None)


def shape(tree): return {tuple(tree.path(v)): [tree.tokens[c] for _, c in tree.draws[v]] for v in range(len(tree))}


@pytest.mark.parametrize("replacement", [True, False])
def test_grown_trees_have_the_chances_of_their_draws(replacement):
    "Two sequences of two tokens: every tree with its probability, from the drawing of one token after the other."
    found = Counter()
    for weight, tree in all_branches(lambda rng: grow([table, table], (), 2, rng=rng, replacement=replacement)):
        level, below = shape(tree)[()], shape(tree)
        found[tuple(level), tuple(tuple(below[x,]) for x in dict.fromkeys(level))] += weight
        assert tree.tokens[0] == -1 and len(tree.draws[0]) == 2
    wanted = Counter()
    for a in range(3):
        for b in range(3):
            p, pa, pb = (table(t) for t in ((), (a,), (b,)))
            first = p[a]*(p[b] if replacement else p[b]/(1 - p[a])*(a != b))
            for x in range(3):
                for y in range(3):
                    if first*pa[x]*pb[y] > 0: wanted[(a, b), ((x, y),) if a == b else ((x,), (y,))] += first*pa[x]*pb[y]
    assert found.keys() == wanted.keys() and all(found[k] == pytest.approx(wanted[k], abs=1e-12) for k in wanted)


def test_grown_trees_continue_their_text():
    "What stands behind the root decides; each draft has its own distribution; nothing at all is drawn for no tokens."
    seen = []
    def draft(text):
        seen.append(text)
        return [0, 1] if len(text) % 2 else [1, 0]
    tree = grow([draft]*2, (1, 1), 3, rng=np.random.default_rng(0))
    assert tree.path(3) == [0, 1, 0] and seen == [(1, 1), (1, 1, 0), (1, 1, 0, 1)] and [len(d) for d in tree.draws] == [2, 2, 2, 0]
    assert len(grow([draft], (), 0, rng=np.random.default_rng(0))) == 1
    mixed = grow([lambda text: [1, 0, 0], lambda text: [0, 0, 1]], (), 2, rng=np.random.default_rng(0))
    assert shape(mixed)[()] == [0, 2] and sorted(map(tuple, shape(mixed))) == [(), (0,), (0, 0), (2,), (2, 2)]
    assert [dist.probs.tolist() for dist, _ in mixed.draws[0]] == [[1], [1]] and [dist.tokens.tolist() for dist, _ in mixed.draws[0]] == [[0], [2]]
    assert {dist.probs.dtype for dist, _ in mixed.draws[0]} == {np.dtype(float)}
    apart = grow([lambda text: [.5, .5, 0]]*3, (), 1, rng=np.random.default_rng(0), replacement=False)     # fewer tokens than sequences
    assert sorted(shape(apart)[()]) == [0, 1]


def test_table_distributions_read_the_text_and_the_path():
    tree, dist = Tree(-1), Distribution(np.arange(3), np.ones(3)/3)
    node = tree.grow(tree.grow(0, 2, dist), 1, dist)
    asked = []
    found = TableDistributions(lambda text: asked.append(text) or [.25, .75], (7, 8), tree)
    assert found[node].tolist() == [.25, .75] and found[node].dtype == float and found[0].tolist() == [.25, .75] and asked == [(7, 8, 2, 1), (7, 8, 2, 1), (7, 8)]


def test_text_of_certain_tables_is_read_in_as_few_calls_as_can_be():
    "The target goes up by one at each place. A draft that does the same is kept whole, one that does not is never kept."
    def up(text): return np.eye(9)[len(text)]
    def never(text): return np.eye(9)[8]
    for rule in (Block(), Traversal(), LeafToRoot(Optimal()), TokenLevel(SingleDraft())):
        for L, calls, first in ((1, 4, 2), (2, 3, 3), (3, 2, 4), (6, 1, 7), (9, 1, 7)):
            assert decode_table(rule, up, [up], length=7, L=L, rng=np.random.default_rng(0)) == (tuple(range(7)), calls, first)
        assert decode_table(rule, up, [never], length=3, L=2, rng=np.random.default_rng(0)) == ((0, 1, 2), 3, 1)
    assert decode_table(Traversal(), up, [never, up], length=3, L=2, rng=np.random.default_rng(0)) == ((0, 1, 2), 1, 3)
    assert decode_table(Traversal(), up, [up], length=0, L=2, rng=np.random.default_rng(0)) == ((), 0, 0)


def expected_tokens(rule, target, drafts, L):
    "Tokens of one target call, in the mean over all branches."
    def one(rng):
        tree = grow(drafts, (), L, rng=rng, replacement=rule.replacement)
        return len(rule.verify(tree, TableDistributions(target, (), tree), rng)[0]) + 1
    return sum(weight*tokens for weight, tokens in all_branches(one))


def test_block_keeps_as_much_as_its_paper_says():
    "Theorem of arXiv 2403.10444: the mean number of tokens kept is the sum over lengths of E[p_i], p_i = min(1, p_{i-1} q/p)."
    def draft(text): return [.2, .3, .5]
    reached, want = [((), 1., 1.)], 1.
    for _ in range(3):
        reached = [(text + (x,), chance*draft(text)[x], min(1., p*table(text)[x]/draft(text)[x])) for text, chance, p in reached for x in range(3)]
        want += sum(chance*p for _, chance, p in reached)
    assert expected_tokens(Block(), table, [draft], 3) == pytest.approx(want, abs=1e-12)
    assert expected_tokens(Traversal(), table, [draft], 3) == pytest.approx(want, abs=1e-12)
    assert expected_tokens(LeafToRoot(SingleDraft()), table, [draft], 3) == pytest.approx(want, abs=1e-12)
    assert expected_tokens(TokenLevel(SingleDraft()), table, [draft], 3) < want - .01
    assert Block().single and not Traversal().single


@pytest.mark.parametrize("K", [2, 3])
def test_lifted_optimum_at_the_root_is_the_optimum(K):
    "One level deep a lifted scheme accepts as often as the scheme."
    draft = lambda text: [.2, .3, .5]
    for scheme in (Optimal(), TruncatedLP(), SingleDraft()):
        found = expected_tokens(LeafToRoot(scheme), table, [draft]*K, 1) - 1
        assert found == pytest.approx(scheme.prepare(table(()), [draft(())]*K).acceptance(), abs=1e-9)
    if K == 2: assert expected_tokens(LeafToRoot(Optimal()), table, [draft]*K, 2) >= expected_tokens(TokenLevel(Optimal()), table, [draft]*K, 2) - 1e-12


def test_lifted_scheme_is_told_by_its_steps():
    assert LeafToRoot(Optimal()).needs_identical and not LeafToRoot(TruncatedLP()).needs_identical
    for scheme in (NaiveLookup(), SpecTr(), Scheme()):
        with pytest.raises(ValueError, match=f"^{type(scheme).__name__} does not select one token"): LeafToRoot(scheme)
    with pytest.raises(ValueError, match="^object does not select|scheme = of type object"): LeafToRoot(object())


@pytest.mark.parametrize("draft, calls, first", [([1., 0.], 2, 3), ([0., 1.], 5, 1)])
def test_calls_and_tokens_of_the_first_are_counted(draft, calls, first):
    told = decode_table(Traversal(), lambda text: [1., 0.], [lambda text: draft], length=5, L=2, rng=np.random.default_rng(0))
    assert told == ((0,)*5, calls, first)


def test_a_script_that_cannot_be_kept_redraws_from_what_is_left():
    "Target (1, 0), draft (0, 1): whatever the coins say, the drafted token is not kept and token 0 comes out."
    for rule in (Block(), Traversal(), LeafToRoot(SingleDraft())):
        for _, text in all_branches(lambda rng: decode_table(rule, lambda text: [1, 0], [lambda text: [0, 1]], length=2, L=1, rng=rng)[0]): assert text == (0, 0)
