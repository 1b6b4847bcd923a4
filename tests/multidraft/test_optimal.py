"""Distributions by enumeration, optima against linear programs and brute force, on degenerate instances; and a list of mutants, each of which must
be caught by the very checks that pass for the real code."""
import itertools
import tracemalloc
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

from tokenstudy.multidraft import canonical, optimal, schemes
from tokenstudy.multidraft.schemes import NaiveLookup, SingleDraft, SpecInfer, SpecTr, all_branches, as_distributions, exact_distribution
from tokenstudy.multidraft.optimal import Optimal, is_lossless_acceptance_one, left_curtain, lorenz, optimal_acceptance, optimal_selection_distribution
from tokenstudy.multidraft.canonical import TruncatedLP, acceptance_lp, compose, decompose, solve_lp, subset_minimum, truncation_bound

Q, P = [.05, .4, .1, .25, .2], [.5, .05, .2, .05, .2]
WEIGHT = st.one_of(st.sampled_from([0.0, 0.0, 1.0, 1.0, 2.0, 1e-18, 1e-9, 1e-4]), st.floats(1e-3, 1))


def normalised(weights):
    weights = np.array(weights)
    return weights / weights.sum() if weights.sum() > 0 else np.eye(len(weights))[0]


def distribution(n): return st.lists(WEIGHT, min_size=n, max_size=n).map(normalised)


@st.composite
def instance(draw, most_n=5, most_K=3, different=False):
    "(q, K distributions): zeros, ties, point masses, tiny masses, disjoint supports, and now and then q = p."
    n, K = draw(st.integers(1, most_n)), draw(st.integers(1, most_K))
    q, p = draw(distribution(n)), draw(distribution(n))
    if draw(st.integers(0, 7)) == 0: q = p.copy()
    return q, ([draw(distribution(n)) for _ in range(K)] if different else [p] * K)


def every_scheme(different=False):
    found = [SingleDraft(), NaiveLookup(), SpecInfer(), TruncatedLP(), TruncatedLP(1, 2), TruncatedLP(2, 3, skip=False), TruncatedLP(None, None)]
    return found if different else found + [SpecTr(), Optimal()]


def check_exact(scheme, q, ps):
    "The output distribution is q to 1e-12, and the closed form of the acceptance is what the enumeration finds."
    found, bound = exact_distribution(scheme, q, ps), scheme.prepare(q, ps)
    assert np.abs(found.distribution - bound.q).max() < 1e-12
    assert abs(found.acceptance - bound.acceptance()) < 1e-11
    assert found.in_drafts >= found.acceptance - 1e-12


def check_optimal(scheme, q, ps):
    check_exact(scheme, q, ps)
    assert abs(exact_distribution(scheme, q, ps).acceptance - subset_minimum(q, ps)[0]) < 1e-11


# --- distributions ---------------------------------------------------------------------------------------------------------------------------------

@given(instance())
@settings(max_examples=60)
def test_every_scheme_keeps_the_distribution_identical_drafts(case):
    for scheme in every_scheme(): check_exact(scheme, *case)


@given(instance(most_n=4, different=True))
@settings(max_examples=60)
def test_every_scheme_keeps_the_distribution_different_drafts(case):
    for scheme in every_scheme(different=True): check_exact(scheme, *case)


@given(instance(most_n=4, most_K=4))
@settings(max_examples=60)
def test_without_replacement_keeps_the_distribution(case):
    assert np.abs(exact_distribution(SpecInfer(replacement=False), *case).distribution - as_distributions(*case)[0]).max() < 1e-12


@given(instance(most_n=6, most_K=4))
@settings(max_examples=80)
def test_optimal_rule_is_optimal(case): check_optimal(Optimal(), *case)


@given(instance(most_n=5, most_K=3, different=True))
@settings(max_examples=60)
def test_nothing_beats_the_optimum(case):
    q, ps = case
    best = optimal_acceptance(q, ps)
    assert all(scheme.prepare(q, ps).acceptance() <= best + 1e-9 for scheme in every_scheme(different=True))
    assert all(scheme.prepare(q, ps[:1] * 3).acceptance() <= optimal_acceptance(q, ps[:1] * 3) + 1e-9 for scheme in every_scheme())


@given(instance(most_n=6, most_K=6))
def test_spectr_guarantee(case):
    q, ps = case
    K = len(ps)
    assert SpecTr().prepare(q, ps).acceptance() >= (1 - (1 - 1 / K) ** K) * optimal_acceptance(q, ps) - 1e-9


def test_spectr_rho_is_the_root():
    scheme = SpecTr().prepare(Q, [P] * 3)
    beta = np.minimum(scheme.ps[0], scheme.q / scheme.rho_).sum()
    assert abs(1 - (1 - beta) ** 3 - scheme.rho_ * beta) < 1e-12
    assert np.abs(exact_distribution(SpecTr(rho=2.5), Q, [P] * 3).distribution - Q).max() < 1e-12
    with pytest.raises(ValueError, match="rho"): SpecTr(rho=1.0).prepare(Q, [P] * 3)


def test_closed_forms_of_the_baselines():
    q, p = np.array(Q), np.array(P)
    assert abs(NaiveLookup().prepare(q, [p] * 3).acceptance() - (q * (1 - (1 - p) ** 3)).sum()) < 1e-15
    rest, reached = q, 1.0
    for _ in range(3):
        reached *= 1 - np.minimum(rest, p).sum()
        rest = np.maximum(rest - p, 0) / np.maximum(rest - p, 0).sum()
    assert abs(SpecInfer().prepare(q, [p] * 3).acceptance() - (1 - reached)) < 1e-12


# --- optima -------------------------------------------------------------------------------------------------------------------------------

@given(instance(most_n=8, most_K=6))
@settings(max_examples=200)
def test_sorting_equals_all_subsets(case):
    assert abs(optimal_acceptance(*case) - subset_minimum(*case)[0]) < 1e-12


@given(instance(most_n=7, most_K=4, different=True))
@settings(max_examples=200)
def test_branch_and_bound_equals_all_subsets(case):
    assert abs(optimal_acceptance(*case) - subset_minimum(*case)[0]) < 1e-12


@given(instance(most_n=4, most_K=3, different=True))
@settings(max_examples=40)
def test_optimum_equals_the_full_program(case):
    assert abs(optimal_acceptance(*case) - acceptance_lp(*case)) < 1e-7


@given(instance(most_n=4, most_K=3))
@settings(max_examples=40)
def test_optimum_equals_the_full_program_identical(case):
    assert abs(optimal_acceptance(*case) - acceptance_lp(*case)) < 1e-7


@given(st.data())
@settings(max_examples=60)
def test_reduced_program_equals_the_full_one(data):
    n = data.draw(st.integers(1, 6))
    q, p1, p2 = (data.draw(distribution(n)) for _ in range(3))
    for ps in ([p1, p2], [p1, p1]): assert abs(acceptance_lp(q, ps, "reduced") - acceptance_lp(q, ps)) < 1e-6


@given(st.data())
@settings(max_examples=30)
def test_min_cut_for_correlated_drafts(data):
    n = data.draw(st.integers(2, 4))
    q, joint = data.draw(distribution(n)), data.draw(distribution(n * n))
    tuples = list(itertools.product(range(n), repeat=2))
    cut = min(q[list(H)].sum() - sum(m for x, m in zip(tuples, joint) if set(x) <= set(H)) for r in range(n + 1) for H in itertools.combinations(range(n), r))
    assert abs(solve_lp(q, [np.full(n, 1 / n)] * 2, joint).acceptance - min(1, 1 + cut)) < 1e-7


@given(instance(most_n=4, most_K=3, different=True))
@settings(max_examples=40)
def test_decomposition_both_ways(case):
    q, ps = as_distributions(*case)
    plan = solve_lp(q, ps)
    beta, p_I = decompose(plan)
    assert np.abs(beta.sum(1) - 1).max() < 1e-9 and beta.min() >= 0
    assert beta[~canonical.membership(plan.tuples, len(q))].max(initial=0) == 0
    assert abs(np.minimum(q, p_I).sum() - plan.acceptance) < 1e-6
    back = compose(beta, plan.tuples, plan.probabilities, q)
    assert np.abs(back.joint.sum(0) - q).max() < 1e-12 and np.abs(back.joint.sum(1) - plan.probabilities).max() < 1e-9


@given(instance(most_n=6, most_K=5, different=True))
def test_theorem_2_for_any_drafts(case):
    q, ps = as_distributions(*case)
    core = all(q[list(H)].sum() >= np.prod([p[list(H)].sum() for p in ps]) - 1e-12 for r in range(len(q) + 1) for H in itertools.combinations(range(len(q)), r))
    assert is_lossless_acceptance_one(q, ps) == core or abs(optimal_acceptance(q, ps) - 1) < 1e-11


@given(st.data())
def test_theorem_3_in_the_papers_form(data):
    n = data.draw(st.integers(1, 6))
    q, p = data.draw(distribution(n)), data.draw(distribution(n))
    sets = [list(S) for r in range(n + 1) for S in itertools.combinations(range(n), r)]
    value = min(q[S].sum() + (1 - p[S].sum()) ** 2 + 2 * p[S].sum() * (1 - p[S].sum()) for S in sets)
    assert abs(optimal_acceptance(q, [p, p]) - value) < 1e-12


@given(instance(most_n=6, most_K=4, different=True), st.data())
def test_more_drafts_never_hurt(case, data):
    q, ps = case
    more = ps + [data.draw(distribution(len(q)))]
    assert optimal_acceptance(q, more) >= optimal_acceptance(q, ps) - 1e-12


def test_named_numbers():
    assert optimal_acceptance(Q, [P] * 3) == .621
    q, ps = [.04, .08, 0, .88], [[.1, 0, .9, 0], [0, .1, .2, .7]]
    assert abs(optimal_acceptance(q, ps) - .81) < 1e-12 and abs(acceptance_lp(q, ps) - .81) < 1e-7
    third = np.full(3, 1 / 3)
    for q1, low, high in ((1 / 3, 1 / 9, 5 / 9), (1 / 6, 5 / 18, 5 / 9)):
        at = lambda b: optimal_acceptance([q1, b, 1 - q1 - b], [third] * 2)
        assert at(low) > 1 - 1e-12 and at(high) > 1 - 1e-12 and at(low - 1e-6) < 1 - 1e-7 and at(high + 1e-6) < 1 - 1e-7


@given(st.data())
@settings(max_examples=60)
def test_truncation_bound(data):
    n = data.draw(st.integers(2, 8))
    q, p, s = data.draw(distribution(n)), data.draw(distribution(n)), data.draw(st.integers(1, n))
    loss = optimal_acceptance(q, [p, p]) - TruncatedLP(s, None).prepare(q, [p, p]).acceptance()
    assert -1e-7 <= loss <= truncation_bound(q, p, p, s) + 1e-7


def test_untruncated_program_is_optimal_for_two_and_not_for_more():
    rng, worst = np.random.default_rng(0), 0
    for q, p in rng.dirichlet(np.full(5, .6), (60, 2)):
        assert abs(TruncatedLP(None, None).prepare(q, [p] * 2).acceptance() - optimal_acceptance(q, [p] * 2)) < 1e-7
        worst = max(worst, optimal_acceptance(q, [p] * 3) - TruncatedLP(None, None).prepare(q, [p] * 3).acceptance())
    assert worst > 1e-3


@given(instance(most_n=7, most_K=6))
def test_truncated_acceptance_grows_with_the_drafts(case):
    q, ps = case
    values = [TruncatedLP(2, 3).prepare(q, ps[:k]).acceptance() for k in range(1, len(ps) + 1)]
    assert all(b >= a - 1e-12 for a, b in zip(values, values[1:]))


# --- selection distribution and tickets --------------------------------------------------------------------------------------------------------------

@given(instance(most_n=7, most_K=6))
@settings(max_examples=150)
def test_selection_distribution(case):
    (q, ps), K = as_distributions(*case), len(case[1])
    p_I = optimal_selection_distribution(q, ps[0], K)
    assert abs(p_I.sum() - 1) < 1e-12 and (p_I[ps[0] == 0] == 0).all()
    assert abs(np.minimum(q, p_I).sum() - subset_minimum(q, ps)[0]) < 1e-12
    subsets = (np.arange(2 ** len(q))[:, None] >> np.arange(len(q))) & 1
    assert (subsets @ p_I >= (subsets @ ps[0]) ** K - 1e-12).all()
    if K == 1: assert np.abs(p_I - ps[0]).max() < 1e-12
    if subset_minimum(q, ps)[0] == 1: assert np.abs(p_I - q).max() < 1e-12


@given(instance(most_n=12, most_K=8))
@settings(max_examples=150)
def test_tickets_tile_the_interval(case):
    (q, ps), K = as_distributions(*case), len(case[1])
    _, lengths, moments, _, _ = optimal._clipped(q, ps[0], K)
    group, start, size = optimal.left_curtain(lengths, moments, K)
    assert len(group) <= 2 * len(lengths) and (size > 0).all()
    assert np.abs(np.bincount(group, size, len(lengths)) - lengths).max() < 1e-12
    place = np.argsort(start, kind="stable")
    gaps = np.abs(np.r_[0, np.cumsum(size[place])][:-1] - start[place])
    assert gaps[size[place] > 1e-12].max() < 1e-9                  # pieces smaller than the spacing of floats may swap places
    dist = np.bincount(group, size * optimal._slope_array(start, np.minimum(start + size, 1), K), len(lengths))
    assert np.abs(dist - moments).max() < 1e-10


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("K", [2, 4, 8])
def test_large_vocabulary(K, close):
    "At 50,000 tokens: optimal to 1e-10, a distribution that sums to one, and the winner's distribution recomputed from the table of pieces."
    from tokenstudy.multidraft.bench import made_distributions
    q, p = made_distributions(50_000, close)
    rule = Optimal().prepare(q, [p] * K)
    assert abs(rule.acceptance() - optimal_acceptance(q, [p] * K)) < 1e-10
    group = rule._group
    mass = np.bincount(group, p)[np.repeat(np.arange(len(rule._first) - 1), np.diff(rule._first))] * rule._size
    top = np.cumsum(mass[np.argsort(rule._rank)])
    won = (top ** K - np.r_[0, top[:-1]] ** K)[rule._rank]
    by_group = np.bincount(np.repeat(np.arange(len(rule._first) - 1), np.diff(rule._first)), won)
    assert np.abs(by_group[group] * p / np.bincount(group, p)[group] - rule.selection_distribution()).max() < 1e-12


def softmax(logits): return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


@pytest.mark.parametrize("n", [100, 1000, 20_000])
@pytest.mark.parametrize("K", [2, 3])
def test_different_drafts_at_real_vocabularies(n, K):
    "Never above the value of any set that sorting by a mixture of the drafts finds, and never below a scheme that attains its value."
    rng = np.random.default_rng(n + K)
    for _ in range(6):
        logits = rng.normal(0, 3, n)
        q, ps = softmax(logits), [softmax(logits / T + rng.normal(0, .5, n)) for T in rng.uniform(1, 2.5, K)]
        value = optimal_acceptance(q, ps)
        for weights in rng.dirichlet(np.ones(K), 20):
            order = np.argsort(q / (weights @ np.stack(ps)))
            assert value <= 1 + (np.cumsum(q[order]) - np.prod([np.cumsum(p[order]) for p in ps], axis=0)).min() + 1e-11
        assert value >= TruncatedLP().prepare(q, ps).acceptance() - 1e-9 and value >= SpecInfer().prepare(q, ps).acceptance() - 1e-9
    assert abs(optimal_acceptance(q, [ps[0], ps[0] + 0]) - optimal_acceptance(q, [ps[0]] * 2)) < 1e-12
    nearly = ps[0] * (1 + 1e-9 * rng.random(n))
    assert abs(optimal_acceptance(q, [ps[0], nearly / nearly.sum()]) - optimal_acceptance(q, [ps[0]] * 2)) < 1e-8


def test_different_drafts_with_sums_that_round():
    "Zipf distributions of 20,000 tokens: boxes must not be dropped because two sums differ in the fifteenth digit (found in review)."
    z = 1 / np.arange(1, 20_001)
    q, p1, p2 = (z ** power / (z ** power).sum() for power in (1.3, 1.3 / 1.2, 1.3 / 2.4))
    order = np.argsort(q / (.62 * p1 + .38 * p2))
    assert optimal_acceptance(q, [p1, p2]) <= 1 + (np.cumsum(q[order]) - np.cumsum(p1[order]) * np.cumsum(p2[order])).min() + 1e-11


@pytest.mark.parametrize("n, K, steep", [(14, 4, (8, 24)), (14, 2, (1, 2)), (40, 3, (5, 9)), (300, 8, (2, 12)), (5000, 4, (8, 24))])
def test_smooth_pairs_on_the_edge_of_acceptance_one(n, K, steep):
    "Pairs whose Lorenz curve is nearly t^K: many gaps are closed by tokens that fit them to the last digit (found in review)."
    t = np.linspace(0, 1, n + 1)
    p, q = np.diff(t ** steep[0]), np.diff(t ** steep[1])
    rule = Optimal().prepare(q, [p] * K)
    assert abs(rule.acceptance() - optimal_acceptance(q, [p] * K)) < 1e-10
    order, lengths, moments, _, _ = optimal._clipped(q / q.sum(), p / p.sum(), K)
    group, start, size = optimal.left_curtain(lengths, moments, K)
    assert len(group) <= 2 * len(lengths) and np.abs(np.bincount(group, size) - lengths).max() < 1e-12


def test_memory_is_linear():
    "Twice the vocabulary, about twice the memory: nothing of size n² is made on the way."
    from tokenstudy.multidraft.bench import made_distributions
    peaks = []
    for n in (20_000, 40_000, 80_000):
        q, p = made_distributions(n, close=True)
        tracemalloc.start()
        Optimal().prepare(q, [p] * 4)
        optimal_acceptance(q, [p] * 4)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 2.2 * peaks[1] < 2.2 ** 2 * peaks[0] and peaks[2] < 80_000 * 400


def test_lorenz_curve_is_convex_and_ends_at_one():
    t, L, order = lorenz(np.array(Q), np.array(P))
    slopes = np.diff(L) / np.diff(t)
    assert (np.diff(slopes) >= -1e-12).all() and t[0] == L[0] == 0 and abs(t[-1] - 1) < 1e-15 and abs(L[-1] - 1) < 1e-12


# --- the interface ----------------------------------------------------------------------------------------------------------------------------

def test_numpy_torch_and_batches():
    q, p = torch.tensor(Q), torch.tensor(P)
    assert abs(optimal_acceptance(q, [p] * 3) - .621) < 1e-6
    assert abs(optimal_acceptance(torch.tensor(Q, dtype=torch.float64), torch.tensor([P] * 3, dtype=torch.float64)) - .621) < 1e-12
    assert abs(optimal_acceptance(q.bfloat16(), [p.bfloat16()] * 3) - .621) < 5e-3
    batch = optimal_acceptance(np.array([Q, P]), [np.array([P, Q])] * 2)
    assert batch.shape == (2,) and abs(batch[0] - optimal_acceptance(Q, [P] * 2)) < 1e-15
    assert Optimal().prepare(q, [p] * 2).select([0, 1], np.random.default_rng(0))[0] in range(5)


def test_equal_arrays_count_as_identical_drafts():
    assert schemes.identical(as_distributions(Q, [list(P), np.array(P), P])[1])
    assert not schemes.identical(as_distributions(Q, [P, Q])[1])


@pytest.mark.parametrize("q, ps, message", [
    ([.5, .6, -.1], [[1, 0, 0]], "q: negative probability -0.1 at token 2"), ([.5, .4], [[1, 0]], "q: sums to 0.9"), ([.5, .5], [[1, 0], [.5, .6]], r"ps\[1\]: sums to 1.1"),
    ([.5, .5], [[1, 0, 0]], r"ps\[0\]: has 3 tokens but q has 2"), ([.5, np.nan], [[1, 0]], "q: nan at token 1"), ([.5, .5], [[1, 0], [np.inf, 0]], r"ps\[1\]: inf at token 0"),
    ([.5, .5], [], "K = 0"), ([.5, .5], [.5, .5], "for one draft"), ([], [[]], "n ≥ 1"), ([[.5, .5]], [[.5, .5]], r"shape \[1, 2\]"), (["a", "b"], [[1, 0]], "real numbers"),
    ([.5, .5], [[1j, 0]], r"ps\[0\]: probabilities must be real")])
def test_bad_distributions_are_named(q, ps, message):
    with pytest.raises(ValueError, match=message): as_distributions(q, ps)
    with pytest.raises(ValueError): Optimal().prepare(q, ps)


def test_a_refused_prepare_changes_nothing():
    scheme = Optimal().prepare(Q, [P] * 2)
    before = scheme.acceptance()
    with pytest.raises(ValueError, match="identical drafts"): scheme.prepare(P, [Q, P])
    assert scheme.acceptance() == before and np.allclose(scheme.q, Q)
    with pytest.raises(AttributeError, match="prepare"): Optimal().acceptance()
    with pytest.raises(AttributeError, match="prepare"): Optimal().select((0, 1), np.random.default_rng(0))


def test_a_token_that_the_target_forbids_never_comes_out():
    rule = TruncatedLP(1, 1).prepare([1, 0, 0], [[1, 1e-18, 1e-18]] * 2)
    assert rule.select((1, 2), np.random.default_rng(0)) == (0, False)


def test_low_precision_softmaxes_are_distributions():
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for _ in range(40): schemes.as_distribution((6 * torch.randn(49_152, generator=generator)).to(dtype).softmax(-1))


def test_more_bad_input_is_named():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="same shape"): optimal_acceptance(np.array([Q, P]), [np.array([P, Q, Q])])
    with pytest.raises(ValueError, match="ps = None"): optimal_acceptance(Q, None)
    with pytest.raises(ValueError, match="has 3 tokens but q has 2"): as_distributions([.5, .5], [[.5, .5], [.2, .3, .6]])
    with pytest.raises(ValueError, match="whole numbers"): Optimal().prepare(Q, [P] * 2).select([.9, 1.7], rng)
    with pytest.raises(ValueError, match="K = 2.5"): optimal_selection_distribution(Q, P, 2.5)
    with pytest.raises(ValueError, match="s = 2.5"): TruncatedLP(2.5)
    with pytest.raises(ValueError, match="prepared for K = 2"): SpecInfer(replacement=False).prepare(Q, [P] * 2).select([0, 1, 2], rng)


def test_bad_drafts_are_named():
    rng, rule = np.random.default_rng(0), Optimal().prepare([.5, .5, 0], [[.5, .5, 0]] * 2)
    with pytest.raises(ValueError, match="1 drafted tokens, but the scheme was prepared for K = 2"): rule.select([0], rng)
    with pytest.raises(ValueError, match="outside the vocabulary"): rule.select([0, 3], rng)
    with pytest.raises(ValueError, match="probability 0 under its own distribution"): rule.select([0, 2], rng)
    with pytest.raises(ValueError, match="identical drafts"): Optimal().prepare(Q, [P, Q])
    with pytest.raises(ValueError, match="identical drafts"): SpecTr().prepare(Q, [P, Q])
    with pytest.raises(ValueError, match="without replacement"): SpecInfer(replacement=False).prepare(Q, [P] * 2).select([1, 1], rng)
    with pytest.raises(ValueError, match="s = 0"): TruncatedLP(s=0)
    with pytest.raises(ValueError, match="too many"): acceptance_lp(np.full(100, .01), [np.full(100, .01)] * 3)
    with pytest.raises(ValueError, match="K = 2"): acceptance_lp(Q, [P] * 3, "reduced")


def test_seeds_do_something():
    rule = Optimal().prepare(Q, [P] * 2)
    tokens = lambda seed: [rule.select((0, 2), rng)[0] for rng in [np.random.default_rng(seed)] for _ in range(50)]
    assert tokens(0) == tokens(0) != tokens(1)


def test_sampled_select_follows_the_enumerated_distribution():
    "The one Monte-Carlo test: select driven by numpy's generator, against the enumeration that proves the rest (chi-square, 1e-4 level)."
    from scipy.stats import chisquare
    rng = np.random.default_rng(0)
    for scheme in every_scheme():
        rule = scheme.prepare(Q, [P] * 3)
        tokens = [rule.select(rule.draft(rng), rng)[0] for _ in range(4000)]
        assert chisquare(np.bincount(tokens, minlength=5), 4000 * np.array(Q)).pvalue > 1e-4, scheme


# --- mutants: each must be caught by a check that the real code passes ---------------------------------------------------------------------------

class AlwaysAccept(SingleDraft):
    def select(self, drafts, rng): return drafts[0], True

class RedrawsFromTheTarget(Optimal):
    def redraw(self, rng): return schemes.draw(rng, self.q)

class ResidualOfTheDraft(Optimal):
    def redraw(self, rng): return schemes.draw(rng, np.maximum(self.q - self.ps[0], 0) + 1e-12)

class RejectsNothing(Optimal):
    def select(self, drafts, rng): return self.choose(drafts, rng), True

class LowestPieceWins(Optimal):
    def choose(self, drafts, rng):
        self._rank = self._rank.max() - self._rank
        winner = super().choose(drafts, rng)
        self._rank = self._rank.max() - self._rank
        return winner

class ForgetsMultiplicity(Optimal):
    def choose(self, drafts, rng):
        drafts = tuple(dict.fromkeys(drafts))
        return drafts[0] if len(drafts) == 1 else super().choose(drafts, rng)

class FirstPieceOnly(Optimal):
    def _prepare(self):
        super()._prepare()
        self._size = np.where(np.arange(len(self._size)) == np.repeat(self._first[:-1], np.diff(self._first)), 1.0, 0.0)

class RhoOne(SpecTr):
    def _prepare(self):
        super()._prepare()
        self.rho_ = 1.0

class SameTargetEveryTry(SpecInfer):
    def _prepare(self): self._residuals = [self.q] * (self.K + 1)

class TransposedWeights(TruncatedLP):
    def _prepare(self):
        super()._prepare()
        self._rounds = [(rank, weights.T) for rank, weights in self._rounds]

class ChallengerStays(TruncatedLP):
    def choose(self, drafts, rng): return super().choose(drafts[::-1], rng)


MUTANT_CASES = [(np.array(Q), [np.array(P)] * 2), (np.array(Q), [np.array(P)] * 3), (np.array([.3, .25, .2, .15, .1]), [np.array([.1, .15, .2, .25, .3])] * 3),
               (np.array([.42, .3, .28]), [np.array([.5, .3, .2])] * 2), (np.array([.05, .3, .3, .35]), [np.array([.4, .25, .2, .15])] * 2)]


@pytest.mark.parametrize("mutant, real", [(AlwaysAccept, SingleDraft), (RedrawsFromTheTarget, Optimal), (ResidualOfTheDraft, Optimal), (RejectsNothing, Optimal), (LowestPieceWins, Optimal),
                                          (ForgetsMultiplicity, Optimal), (FirstPieceOnly, Optimal), (RhoOne, SpecTr), (SameTargetEveryTry, SpecInfer),
                                          (TransposedWeights, TruncatedLP), (lambda: ChallengerStays(1, 2), lambda: TruncatedLP(1, 2))])
def test_mutants_are_caught(mutant, real):
    different = [(q, [ps[0], q[::-1]]) for q, ps in MUTANT_CASES] if isinstance(real(), TruncatedLP) else []
    for q, ps in MUTANT_CASES + different: check_exact(real(), q, ps)
    caught = 0
    for q, ps in MUTANT_CASES + different:
        try: check_exact(mutant(), q, ps)
        except (AssertionError, ValueError): caught += 1
    assert caught


def test_mutant_moments_by_subtraction(monkeypatch):
    "b^K - a^K by subtraction loses a token of mass 1e-18 next to one of mass ½."
    q, p = np.array([.4, .35, .25]), normalised([1, 1, 1e-18])
    check_optimal(Optimal(), q, [p] * 3)
    with np.errstate(invalid="ignore", divide="ignore"):
        monkeypatch.setattr(optimal, "_slope_array", lambda a, b, K: (b ** K - a ** K) / (b - a))
        with pytest.raises((AssertionError, ValueError)): check_optimal(Optimal(), q, [p] * 3)


def test_mutant_mean_ratio_sort():
    "Sorting by q / mean p is wrong on the counter-example and right nearly everywhere else, which is why it needs a named test."
    def mean_ratio(q, ps):
        order = np.argsort(np.divide(q, np.mean(ps, axis=0), out=np.full(len(q), np.inf), where=np.mean(ps, axis=0) > 0))
        return 1 + min(0, (np.cumsum(q[order]) - np.prod([np.cumsum(p[order]) for p in ps], axis=0)).min())
    q, ps = np.array([.04, .08, 0, .88]), [np.array([.1, 0, .9, 0]), np.array([0, .1, .2, .7])]
    assert abs(optimal_acceptance(q, ps) - acceptance_lp(q, ps)) < 1e-7 < abs(mean_ratio(q, ps) - acceptance_lp(q, ps))


@pytest.mark.parametrize("mutate", [lambda q, p, K: optimal_acceptance(q, [p] * (K - 1)), lambda q, p, K: 1 + min(0, (np.cumsum(np.sort(q)) - np.cumsum(p[np.argsort(q)]) ** K).min()),
                                    lambda q, p, K: 1 + min(0, (np.cumsum(q[np.argsort(-q / p)]) - np.cumsum(p[np.argsort(-q / p)]) ** K).min())])
def test_mutant_optima(mutate):
    "Exponent K - 1, sorting by q alone, sorting the wrong way round."
    q, p = np.array([.05, .1, .4, .25, .2]), np.array([.5, .05, .2, .05, .2])
    assert abs(optimal_acceptance(q, [p] * 3) - subset_minimum(q, [p] * 3)[0]) < 1e-12
    assert abs(mutate(q, p, 3) - subset_minimum(q, [p] * 3)[0]) > 1e-3


def test_distribution_that_was_not_sampled_from_is_caught():
    "The commonest silent error: the drafts came from a distribution that differs from the one given to the verifier."
    class OtherDraftDistribution(Optimal):
        def draft(self, rng): return tuple(schemes.draw(rng, self.ps[0] ** 1.2) for _ in range(self.K))
    assert np.abs(exact_distribution(OtherDraftDistribution(), Q, [P] * 2).distribution - Q).max() > 1e-3


# --- the parts, by hand -------------------------------------------------------------------------------------------------------------------------------

def test_lorenz_curve_by_hand():
    t, L, order = lorenz(np.array([.5, .1, .2, .2]), np.array([.25, 0, .5, .25]))             # q/p = 2, never drafted, .4, .8
    assert order.tolist() == [2, 3, 0] and t.tolist() == [0, .5, .75, 1] and L == pytest.approx([0, .2, .4, .9])
    t, L, order = lorenz(np.array([.2, .8]), np.array([.5, .5]))
    assert (t.tolist(), L.tolist(), order.tolist()) == ([0, .5, 1], [0, .2, 1], [0, 1])
    t, _, order = lorenz(np.array([.25]*4), np.array([1e-320, .5, .25, .25]))                 # q/p is beyond all floats
    assert order[-1] == 0 and t[-1] == 1


def test_bounds_of_a_product_by_hand():
    low, high = np.array([.1, .3, .2]), np.array([.5, .4, .9])
    c, c0 = optimal._majorant(low[:2], high[:2], True)                                        # low1 P0 + high0 (P1 - low1)
    assert c == pytest.approx([.3, .5]) and c0 == pytest.approx(-.15)
    c, c0 = optimal._majorant(low[:2], high[:2], False)                                       # high1 P0 + low0 (P1 - high1)
    assert c == pytest.approx([.4, .1]) and c0 == pytest.approx(-.04)
    c, c0 = optimal._majorant(low, high, True)                                                # that times low2, and high0 high1 (P2 - low2)
    assert c == pytest.approx([.06, .1, .2]) and c0 == pytest.approx(-.03 - .04)
    c, c0 = optimal._majorant(low, high, False)
    assert c == pytest.approx([.36, .09, .03]) and c0 == pytest.approx(-.036 - .027)
    assert [x.tolist() if isinstance(x, np.ndarray) else x for x in optimal._majorant(low[:1], high[:1], True)] == [[1], 0]
    for point in itertools.product(*zip(low, (low + high)/2, high)):
        for first in (True, False):
            c, c0 = optimal._majorant(low, high, first)
            assert c0 + c @ point >= np.prod(point) - 1e-15
    assert optimal._others(np.array([.5, .2, .3])) == pytest.approx([.06, .15, .1])


def value_of(box, inside): return box[2] + sum(box[4][i] for i in inside) - np.prod([box[3][k] + sum(box[5][k, i] for i in inside) for k in range(len(box[3]))])


def everything(m): return [H for r in range(m + 1) for H in itertools.combinations(range(m), r)]


@pytest.mark.parametrize("seed", range(40))
def test_boxes_lose_no_set_and_bound_all_of_them(seed):
    "Whatever a box decides about tokens, the best of all sets stays if it was inside; bound and values lie below it, and the values belong to sets."
    rng = np.random.default_rng(seed)
    P, q = np.stack([rng.dirichlet(np.full(5, .7)) for _ in range(2 + seed % 2)]), rng.dirichlet(np.full(5, .7))
    low = np.round(P.sum(1)*rng.uniform(0, .4), 2)
    box = low, np.minimum(1, low + rng.uniform(.3, .7)), 0., np.zeros(len(P)), q, P
    masses = {H: P[:, list(H)].sum(1) for H in everything(5)}
    values = {H: q[list(H)].sum() - np.prod(x) for H, x in masses.items()}
    star = min(values, key=values.get)
    inside = (box[0] <= masses[star]).all() and (masses[star] <= box[1]).all()
    small = optimal._shrunk(box)
    if small is None:
        assert not inside
        return
    assert (small[0] >= box[0]).all() and (small[1] <= box[1]).all() and (small[1] >= small[0] - 1e-12).all()
    left = [value_of(small, H) for H in everything(len(small[4]))]
    middle, none, bound = optimal._bounds(small)
    assert none == pytest.approx(left[0]) and any(abs(middle - v) < 1e-12 for v in left) and set(np.round(left, 12)) <= set(np.round(list(values.values()), 12))
    if inside: assert min(left) <= values[star] + 1e-12 and min(middle, none, bound) <= values[star] + 1e-12
    half = .5*(small[0] + small[1])
    chosen = [i for i in range(len(small[4])) if small[4][i] < sum(np.prod(np.delete(half, k))*small[5][k, i] for k in range(len(P)))]
    assert middle == pytest.approx(value_of(small, chosen), abs=1e-14)


def test_boxes_decide_what_is_certain():
    "Two drafts. Token 0 costs nothing and enters, token 1 costs more than it can bring and leaves, token 2 stays open."
    q, P = np.array([1e-9, .9, .35]), np.array([[.4, .3, .3], [.4, .3, .3]])
    low, high, q_in, p_in, q_u, P_u = optimal._shrunk((np.array([.1, .1]), np.array([.7, .7]), 0., np.zeros(2), q, P))
    assert (q_in, q_u.tolist(), p_in.tolist(), P_u.tolist()) == (1e-9, [.35], [.4, .4], [[.3], [.3]])
    assert low.tolist() == [.4, .4] and high == pytest.approx([.7, .7])
    assert optimal._shrunk((np.array([.5, .5]), np.array([.4, .9]), 0., np.zeros(2), q, P)) is None
    assert optimal._shrunk((np.array([.2, .2]), np.array([.9, .9]), 0., np.zeros(2), np.array([.5]), np.array([[.1], [.1]]))) is None       # not enough to reach it
    middle, none, bound = optimal._bounds((low, high, .2, np.array([.5, .3]), np.zeros(0), np.zeros((2, 0))))
    assert middle == none == pytest.approx(.05) and bound == np.inf


@pytest.mark.parametrize("seed", range(8))
def test_worst_gap_is_that_of_all_subsets(seed):
    rng = np.random.default_rng(seed)
    n, K = 4 + seed % 4, 2 + seed % 3
    q, ps = rng.dirichlet(np.full(n, .6)), list(rng.dirichlet(np.full(n, .6), K))
    q[seed % n] = 0
    ps[0][(seed + 1) % n] = ps[1][(seed + 1) % n] = 0
    q, ps = q/q.sum(), [p/p.sum() for p in ps]
    want = min(q[list(H)].sum() - np.prod([p[list(H)].sum() for p in ps]) for H in everything(n))
    assert optimal._worst_gap(q, ps) == pytest.approx(want, abs=1e-12) and optimal._worst_gap(q, ps, tolerance=.1) <= want + .1
    assert optimal._lorenz_gap(q, ps[0], np.argsort(q/np.maximum(ps[0], 1e-300)), K) == pytest.approx(min(q[list(H)].sum() - ps[0][list(H)].sum()**K for H in everything(n)), abs=1e-12)
    assert optimal._worst_gap(q, [q, q]) == 0 == optimal._lorenz_gap(q, q, np.argsort(q), 2)


@pytest.mark.parametrize("K", [1, 2, 3, 5])
def test_slopes_and_what_slides_and_eats(K):
    for a, b in ((.2, .7), (0., .5), (.5, 1.), (.3, .3)):
        want = (b**K - a**K)/(b - a) if b > a else K*a**(K - 1)
        assert optimal._slope(a, b, K) == pytest.approx(want, rel=1e-12) and optimal._slope_array(np.array([a]), np.array([b]), K)[0] == pytest.approx(want, rel=1e-12)
    if K == 1: return
    for g, length, low, high in ((.3, .2, .1, .8), (.25, .5, 0., .5), (.1, .1, .1, .5), (.5, .1, .2, .5), (.4, 1e-9, 0., 1 - 1e-9)):
        assert optimal._slide(low, high, length, optimal._slope(g, g + length, K), K) == pytest.approx(g, abs=1e-9)
    moment = lambda a, b: b**K - a**K
    for d, top, beta, rest in ((.1, .3, .5, .25), (.02, .3, .6, .2), (.2, .25, .4, .3), (.05, .1, .1, .1)):
        need = moment(top - d, top) + moment(beta, beta + rest - d)
        assert optimal._eat(top, min(rest, top), 0., beta, rest, need, K) == pytest.approx(d, abs=1e-9)
        assert optimal._eat(top, min(rest, top), d/2, beta, rest, need, K) == pytest.approx(d, abs=1e-9)


def moments_of(group, left, size, K): return [sum((a + s)**K - a**K for g, a, s in zip(group, left, size) if g == i) for i in range(max(group) + 1)]


@pytest.mark.parametrize("K", [2, 3, 6])
@pytest.mark.parametrize("lengths", [[.6, .4], [.25, .25, .5], [.1, .2, .3, .4], [.5, .5], [1.], [.3, .3, .2, .2]])
@pytest.mark.parametrize("flat", [0., .3, .7, 1.])
def test_tickets_have_their_lengths_and_moments(K, lengths, flat):
    "Pieces side by side from 0 to 1, with the length and the winning mass of each group, at most two a group. `flat` 0: in order, 1: all alike."
    lengths = np.array(lengths)
    top = np.cumsum(lengths)
    moments = (1 - flat)*np.diff(np.r_[0, top**K]) + flat*lengths
    order = np.argsort(moments/lengths)
    lengths, moments = lengths[order], moments[order]
    group, left, size = optimal.left_curtain(lengths, moments, K)
    place = np.argsort(np.where(size > 1e-12, left, 2))[:(size > 1e-12).sum()]              # without those below the spacing of floats
    assert left[place][0] == pytest.approx(0, abs=1e-9) and np.abs(left[place][1:] - (left + size)[place][:-1]).max(initial=0) < 1e-9 and (left + size).max() == pytest.approx(1)
    assert np.bincount(group, size) == pytest.approx(lengths, abs=1e-9) and moments_of(group, left, size, K) == pytest.approx(moments, abs=1e-8)
    assert len(group) <= 2*len(lengths) and (size > 0).all() and group.dtype == np.int64


@pytest.mark.parametrize("K", [1, 2, 4])
@pytest.mark.parametrize("q, p", [(Q, P), (P, Q), ([.2, .3, .5], [.6, .3, .1]), ([.3, .25, .2, .15, .1], [.1, .15, .2, .25, .3]), ([0, .5, .5], [.5, .5, 0]), ([1, 0], [0, 1]), ([.5, .5], [.5, .5]),
                                  ([.1, .2, .3, .4], [.25]*4), ([.26, .25, .25, .24], [.25]*4)])
def test_clipping_by_hand(q, p, K):
    "p_I = p clip(q/p, c, C): as many tokens at the lowest and at the highest ratio as are said, all others at their own."
    q, (p,) = as_distributions(q, [p])
    order, P_, x, low, high = optimal._clipped(q, p, K)
    ratio, own = x/P_, q[order]/P_
    assert sorted(order) == np.flatnonzero(p).tolist() and P_ == pytest.approx(p[order]/p[order].sum()) and x.sum() == pytest.approx(1, abs=1e-15)
    assert (np.diff(ratio) >= -1e-9).all() and (np.diff(own) >= 0).all()
    if low: assert ratio[:low] == pytest.approx(ratio[0]) and (ratio[:low] >= own[:low] - 1e-12).all()
    if high: assert ratio[len(x) - high:] == pytest.approx(ratio[-1]) and (ratio[len(x) - high:] <= own[len(x) - high:] + 1e-12).all()
    middle = slice(low, len(x) - high)
    assert ratio[middle] == pytest.approx(own[middle], abs=1e-12)
    assert np.minimum(q[order], x).sum() == pytest.approx(subset_minimum(q, [p]*K)[0], abs=1e-12)
    selected = optimal_selection_distribution(q, p, K)
    assert selected[order] == pytest.approx(x) and selected[p == 0].sum() == 0
    rule = Optimal().prepare(q, [p]*K)
    assert rule.selection_distribution() == pytest.approx(selected, abs=1e-10) and rule._group[p == 0].tolist() == [-1]*int((p == 0).sum())
    found = Counter()
    for weight, drafts in all_branches(rule.draft):
        for chance, winner in all_branches(lambda rng: rule.choose(drafts, rng)):
            found[winner] += weight*chance
            assert winner in drafts
    assert [found[i] for i in range(len(q))] == pytest.approx(selected, abs=1e-10)


def test_lengths_that_differ_are_named_by_both():
    with pytest.raises(ValueError, match="^q, p: 2, 1 entries"): lorenz([.5, .5], [1.])
    with pytest.raises(ValueError, match="^lengths, moments: 1, 2 entries"): left_curtain([1.], [.5, .5], 2)


def test_tiny_probabilities_overflow_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for p in ([1., 1e-310], [1e-310, 1.]): assert Optimal().prepare([.1, .9], [p]*2).acceptance() == pytest.approx([.9, .1][p[0] == 1])
        assert Optimal().prepare([1e-301, 0., 1.], [[1e-320, .8, .2]]*2).acceptance() == pytest.approx(1 - .8**2)


def test_the_first_of_drafts_with_one_ticket_wins():
    "Tokens 0, 1 and 3 are clipped to one ratio and share their tickets; every draft takes the first."
    rule = Optimal().prepare([.02, .02, .9, .06], [[.3, .3, .1, .3]]*3)
    for drafts in ([0, 1, 3], [1, 0, 3], [3, 3, 0], [0, 0, 1]): assert rule.choose(drafts, schemes.Script()) == drafts[0]
    for drafts in ([0, 2, 3], [2, 1, 1], [3, 1, 2]): assert rule.choose(drafts, schemes.Script()) == 2


def test_optimal_arguments_are_named():
    for K in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"^K = {K}: it must be (at least 1|a whole number)"): optimal_selection_distribution(Q, P, K)
    assert optimal_selection_distribution(Q, P, np.int64(2)).tolist() == optimal_selection_distribution(Q, P, 2).tolist() and optimal_selection_distribution(Q, P, 1) == pytest.approx(P)
    with pytest.raises(ValueError, match=r"^ps: for q of shape \[2, 5\] every draft must have the same shape, got \[\[2, 5\], \[5\]\]"): optimal_acceptance([Q, P], [[P, Q], P])
    assert is_lossless_acceptance_one(Q, [Q]*2) is True and is_lossless_acceptance_one(Q, [P]*2) is False and is_lossless_acceptance_one(Q, [P]*2, .5) is True
    assert is_lossless_acceptance_one([.5 - 1e-9, .5 + 1e-9], [[.5, .5]], 1e-8) and not is_lossless_acceptance_one([.5 - 1e-9, .5 + 1e-9], [[.5, .5]])
    assert type(optimal_acceptance(Q, [P, Q])) is type(optimal_acceptance(Q, [P])) is float and optimal_acceptance(Q, [P, Q]) == round(optimal_acceptance(Q, [P, Q]), 14)
    assert optimal_acceptance([.5, .5, 0], [[.5, .5 - 1e-310, 1e-310]]*2) == optimal_acceptance([.5, .5], [[.5, .5]]*2) == 1


@pytest.mark.parametrize("seed", [2, 16, 22, 28, 37, 120, 126, 184, 592, 914])
def test_worst_gap_where_boxes_must_be_halved(seed):
    "Drawn so that the best set is not the first that is looked at, lies in either half, and boxes in between are empty."
    rng = np.random.default_rng(seed)
    n, K = 6 + seed % 6, 2 + seed % 3
    q, ps = rng.dirichlet(np.full(n, .8)), [rng.dirichlet(np.full(n, .5)) for _ in range(K)]
    mix = rng.dirichlet(np.ones(K))
    q = .1*q + .9*(mix @ np.stack(ps)) if seed % 2 else q*np.mean(ps, 0)**rng.uniform(0, 1.5)
    q = q/q.sum()
    subsets = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    assert optimal._worst_gap(q, ps) == pytest.approx((subsets @ q - np.prod([subsets @ p for p in ps], 0)).min(), abs=1e-12)


def test_lorenz_curve_ends_at_one_exactly_and_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for p in np.random.default_rng(0).dirichlet(np.ones(30), 50): assert lorenz(p[::-1], p)[0][-1] == 1
        assert lorenz(np.array([.5, .5]), np.array([1e-320, 1.]))[2].tolist() == [1, 0]
        assert optimal_selection_distribution([.5, .5], [1e-320, 1.], 2).sum() == 1


def test_optimum_has_fourteen_digits():
    found = [optimal_acceptance(q, [p]*3) for q, p in np.random.default_rng(1).dirichlet(np.ones(7), (60, 2))]
    assert all(x == round(x, 14) for x in found) and not all(x == round(x, 13) for x in found)
    assert is_lossless_acceptance_one([.5, .3, .2], [[.2, .3, .5]], .3) and optimal_acceptance([.5, .3, .2], [[.2, .3, .5]]) == .7 == 1 - .3
