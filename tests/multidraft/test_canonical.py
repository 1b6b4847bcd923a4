"The linear programs, the two steps, and the truncated program, on numbers that fit on a line."
import itertools

import numpy as np
import pytest

from tokenstudy.multidraft.canonical import (Plan, TruncatedLP, acceptance_lp, compose, decompose, draft_tuples, membership, pair_distribution, pair_weights, solve_lp,
                                             subset_minimum, truncation_bound)
from tokenstudy.multidraft.optimal import optimal_acceptance
from tokenstudy.multidraft.schemes import Script, exact_distribution

Q, P, R = np.array([.7, .3]), np.array([.4, .6]), np.array([.9, .1])


def test_tuples_and_their_members():
    tuples, probabilities = draft_tuples([P, R, np.array([.5, .5])])
    assert tuples.tolist() == [list(x) for x in itertools.product(range(2), repeat=3)]
    assert probabilities == pytest.approx([P[a]*R[b]*.5 for a, b, _ in tuples])
    assert membership(np.array([[0, 2], [1, 1], [2, 3]]), 4).tolist() == [[True, False, True, False], [False, True, False, False], [False, False, True, True]]
    assert membership(tuples, 2).dtype == bool


def test_reported_lengths_that_differ_are_named():
    def refused(names, call):
        with pytest.raises(ValueError, match=f"^{names}: .* entries; they must be as many"): call()
    plan, three, square = solve_lp(Q, [P, P]), np.array([.2, .3, .5]), np.full((2, 2), .5)
    beta = decompose(plan)[0]
    refused("q, beta", lambda: compose(beta, plan.tuples, plan.probabilities, three))
    for i in range(3):
        rows = [x[:-1] if j == i else x for j, x in enumerate((beta, plan.tuples, plan.probabilities))]
        refused("beta, tuples, probabilities", lambda: compose(*rows, Q))
        refused("p1, p2, weights", lambda: pair_distribution(*[np.full((3, 3), .5) if j == i == 2 else three if j == i else x for j, x in enumerate((P, R, square))]))
        refused("q, p1, p2", lambda: truncation_bound(*[three if j == i else x for j, x in enumerate((Q, P, R))], 1))
    for i in range(4):
        *given, base = [three if j == i else x for j, x in enumerate((Q, P, R, P*R))]
        refused("q, p1, p2, base", lambda: pair_weights(*given, base=base))
        if i < 3: refused("q, p1, p2, base", lambda: pair_weights(*given))
    for bad in ([[0, 4]], [[-1, 0]], [[-1, 9]]):
        with pytest.raises(ValueError, match="^tuples: tokens must lie in "): membership(np.array(bad), 4)


def test_program_of_two_tokens():
    "Both drafts miss token 0 with probability .36, so it comes out at most .64 of .7: P* = .94, and the plan sums to what it must."
    plan = solve_lp(Q, [P, P])
    assert plan.acceptance == pytest.approx(.94) and plan.tuples.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]] and plan.probabilities == pytest.approx([.16, .24, .24, .36])
    assert plan.joint.sum(1) == pytest.approx(plan.probabilities) and plan.joint.sum(0) == pytest.approx(Q) and plan.joint.min() >= 0 and type(plan.acceptance) is float
    for name in ("full", "reduced"): assert acceptance_lp(Q, [P, R], name) == pytest.approx(optimal_acceptance(Q, [P, R])) and type(acceptance_lp(Q, [P, R], name)) is float
    assert acceptance_lp(Q, [P]*3) == pytest.approx(optimal_acceptance(Q, [P]*3)) and acceptance_lp(Q, [P, P]) == acceptance_lp(Q, [P, P], form="full")
    same = solve_lp(Q, [P, P], [.4, 0, 0, .6])                             # drafts that are always alike
    assert same.acceptance == pytest.approx(.7) and same.joint == pytest.approx(np.array([[.4, 0], [0, 0], [0, 0], [.3, .3]]))
    assert solve_lp(Q, [P, P], np.diag([.4, .6])).acceptance == pytest.approx(.7)
    for joint, message in (([.5, .5], r"^joint: has 2 entries, expected n\*\*K = 4"), ([.5]*4, "^joint: sums to 2")):
        with pytest.raises(ValueError, match=message): solve_lp(Q, [P, P], joint)


def test_programs_that_are_refused():
    flat = lambda n: np.full(n, 1/n)
    with pytest.raises(ValueError, match=r"^n\*\*\(K\+1\) = 205379 variables are too many"): solve_lp(flat(59), [flat(59)]*2)
    assert solve_lp(flat(447), [flat(447)]).acceptance == pytest.approx(1)                   # 199,809 variables
    with pytest.raises(ValueError, match="^form must be 'full' or 'reduced', got 'half'"): acceptance_lp(Q, [P, P], "half")
    for K in (1, 3):
        with pytest.raises(ValueError, match=f"^the reduced program is for K = 2 drafts, got K = {K}"): acceptance_lp(Q, [P]*K, "reduced")
    with pytest.raises(ValueError, match=r"^2\*\*21 subsets are too many"): subset_minimum(flat(21), [flat(21)])
    assert subset_minimum(flat(20), [flat(20)]*2)[0] == 1


def test_decomposition_of_a_plan_by_hand():
    "Mass off the drafts does not count, what a row misses goes to its first draft, and a tuple that never comes selects its first draft."
    tuples = np.array([[0, 1], [2, 1], [1, 1], [2, 0]])
    plan = Plan(.5, tuples, np.array([.4, .4, .2, 0.]), np.array([[.1, .1, .2], [0, .1, .1], [.1, .1, 0], [0, 0, 0]]))
    beta, p_I = decompose(plan)
    assert beta == pytest.approx(np.array([[.75, .25, 0], [0, .25, .75], [0, 1, 0], [0, 0, 1]])) and p_I == pytest.approx([.3, .4, .3])
    double = decompose(Plan(.5, tuples[:1], np.array([.25]), np.array([[.25, .25, 0]])))[0]                        # more than the tuple has
    assert double == pytest.approx(np.array([[.5, .5, 0]]))


def test_composition_by_hand():
    "Select by beta, accept by min(1, q/p_I), draw what is rejected from (q - p_I)+."
    tuples, probabilities, q = np.array([[0, 1], [1, 0]]), np.array([.25, .75]), np.array([.1, .5, .4])
    beta = np.array([[1., 0, 0], [.2, .8, 0]])                                              # p_I = (.4, .6, 0): token 0 stays with 1/4, token 1 with 5/6
    del [np.full(3, np.nan) for _ in range(8)][:]                                          # what was in memory before does not matter
    back = compose(beta, tuples, probabilities, q)
    assert back.acceptance == pytest.approx(.6) and back.tuples is tuples and back.probabilities is probabilities and type(back.acceptance) is float
    assert back.joint == pytest.approx(np.array([[.0625, 0, .1875], [.0375, .5, .75 - .0375 - .5]]))
    whole = compose(np.eye(2), np.array([[0], [1]]), P, P)                                 # nothing is left to redraw
    assert whole.acceptance == 1 and whole.joint == pytest.approx(np.diag(P))


def test_pairs_by_hand():
    "p_I(i) = p1_i p2_i + Σ_j (p1_i p2_j + p1_j p2_i) w_ij."
    p1, p2, w = np.array([.2, .3, .5]), np.array([.6, .3, .1]), np.array([[9, .25, 1.], [.75, 9, .5], [0, .5, 9]])
    pair = {(0, 1): .2*.3 + .3*.6, (0, 2): .2*.1 + .5*.6, (1, 2): .3*.1 + .5*.3}
    assert pair_distribution(p1, p2, w) == pytest.approx([.12 + .25*pair[0, 1] + pair[0, 2], .09 + .75*pair[0, 1] + .5*pair[1, 2], .05 + .5*pair[1, 2]])
    for q in ([.9, .1, 0], [0, .1, .9], [.3, .4, .3]):
        best = pair_weights(np.array(q), p1, p2)
        assert np.array_equal(best + best.T, np.ones((3, 3))) and best.min() >= 0
        assert np.minimum(q, pair_distribution(p1, p2, best)).sum() == pytest.approx(optimal_acceptance(q, [p1, p2]), abs=1e-7)
        grid = [np.minimum(q, pair_distribution(p1, p2, np.array([[.5, a, b], [1 - a, .5, c], [1 - b, 1 - c, .5]]))).sum() for a in (0, .5, 1) for b in (0, .5, 1) for c in (0, .5, 1)]
        assert np.minimum(q, pair_distribution(p1, p2, best)).sum() >= max(grid) - 1e-9
    assert pair_weights(np.array([1.]), np.array([1.]), np.array([1.])).tolist() == [[.5]]
    assert pair_weights(np.array([.5, .5, 0]), np.array([1., 0, 0]), np.array([1., 0, 0])).tolist() == [[.5]*3]*3               # no pair can be drawn
    q = np.array([.5, .5])
    assert pair_weights(q, P, P, base=np.array([.5, 0.]))[0, 1] == pytest.approx(0, abs=1e-9)                       # token 0 has what it needs
    assert pair_weights(q, P, P, base=np.array([0., .5]))[0, 1] == pytest.approx(1)
    assert pair_weights(q, P, P, base=np.array([.02, .5]))[0, 1] == pytest.approx(1)
    assert pair_weights(np.array([.3, .5]), P, P, base=np.array([.06, .26]))[0, 1] == pytest.approx(.5)             # .24 and .24 are missing of .48


def test_subsets_by_hand():
    best, subset = subset_minimum([.1, .6, .3], [[.5, .2, .3], [.7, .2, .1]])
    sets = {H: sum([.1, .6, .3][i] for i in H) - sum([.5, .2, .3][i] for i in H)*sum([.7, .2, .1][i] for i in H) for r in range(4) for H in itertools.combinations(range(3), r)}
    assert best == pytest.approx(1 + min(sets.values())) == 1 + sets[0,] and subset.tolist() == [True, False, False] and subset.dtype == bool and type(best) is float
    assert subset_minimum([.5, .5], [[.5, .5]])[0] == 1 and subset_minimum([1, 0], [[0, 1]]*2)[0] == 0


def test_truncation_bound_by_hand():
    q, p1, p2 = np.array([.5, .1, .25, .15]), np.array([.1, .2, .3, .4]), np.array([.2, .7, .05, .05])      # q - p1 p2 = .48, -.04, .235, .13
    for s, bound in ((0, .845), (1, .365), (2, .13), (3, 0), (4, 0)): assert truncation_bound(q, p1, p2, s) == pytest.approx(bound) and type(truncation_bound(q, p1, p2, s)) is float


# --- the truncated program

def test_truncated_program_checks_its_sizes():
    for name in ("s", "omega0"):
        for bad in (0, -1, 2.5, "3", 2.):
            with pytest.raises(ValueError, match=f"^{name} = {bad}: it must be a whole number ≥ 1, or None"): TruncatedLP(**{name: bad})
        for good in (None, 1, np.int64(3)): assert getattr(TruncatedLP(**{name: good}), name) == good
    assert TruncatedLP() == TruncatedLP(5, 40, True) and TruncatedLP().skip


@pytest.mark.parametrize("s", [1, 2, 3, None])
@pytest.mark.parametrize("omega0", [1, 2, 3, 4, None])
@pytest.mark.parametrize("skip", [True, False])
def test_truncated_program_chooses_with_its_distribution(s, omega0, skip):
    "Four tokens, three different drafts: the tournament's winner is distributed as it is said, and what it costs is at most the bound."
    q, ps = np.array([.1, .45, .15, .3]), [np.array([.4, .1, .3, .2]), np.array([.25]*4), np.array([.05, .15, .6, .2])]
    rule = TruncatedLP(s, omega0, skip).prepare(q, ps)
    found = np.zeros(4)
    for drafts in itertools.product(range(4), repeat=3):
        todo = [[]]
        while todo:
            script = Script(todo.pop())
            winner = rule.choose(drafts, script)
            todo += script.others
            assert winner in drafts
            found[winner] += script.weight*np.prod([p[x] for p, x in zip(ps, drafts)])
    assert found == pytest.approx(rule.selection_distribution(), abs=1e-12)
    assert exact_distribution(rule, q, ps).distribution == pytest.approx(q, abs=1e-12)
    assert rule.acceptance() <= optimal_acceptance(q, ps) + 1e-9
    if skip: assert rule.acceptance() >= TruncatedLP(s, omega0, skip).prepare(q, ps[:2]).acceptance() - 1e-12


def test_truncated_program_of_two_drafts_keeps_its_bound():
    rng = np.random.default_rng(0)
    for q, p1, p2 in rng.dirichlet(np.full(6, .5), (30, 3)):
        best = optimal_acceptance(q, [p1, p2])
        for s in (1, 2, 4, 6): assert -1e-9 <= best - TruncatedLP(s, None, skip=False).prepare(q, [p1, p2]).acceptance() <= truncation_bound(q, p1, p2, s) + 1e-9
        assert TruncatedLP(None, None).prepare(q, [p1, p2]).acceptance() == pytest.approx(best, abs=1e-8)
        assert TruncatedLP(6, 6).prepare(q, [p1, p2]).acceptance() == pytest.approx(best, abs=1e-8)


def test_truncated_program_orders_by_what_is_needed():
    "Tokens by q - r p, downwards; with s = 1 the higher rank always wins; tokens outside of omega0 never challenge."
    q, p = np.array([.1, .5, .15, .25]), np.array([.4, .1, .3, .2])
    rule = TruncatedLP(1, None).prepare(q, [p, p])
    need = q - p*p
    order = np.argsort(-need).tolist()
    assert list(rule._rounds[0][0]) == order and list(rule._rounds[0][0].values()) == [0, 1, 2, 3] and rule._rounds[0][1].tolist() == [[.5]]
    for a, b in itertools.permutations(range(4), 2): assert rule.choose([a, b], None) == min((a, b), key=order.index)
    outside = TruncatedLP(1, 2).prepare(q, [p, p])                                      # 1 and 3 are ranked, 0 and 2 are not
    assert sorted(outside._rounds[0][0]) == [1, 3]
    assert [outside.choose(x, None) for x in ([0, 2], [2, 0], [0, 1], [0, 3], [1, 0], [3, 2], [1, 3], [3, 1])] == [0, 2, 1, 3, 1, 3, 1, 1]
    assert outside.selection_distribution() == pytest.approx([.4*.7, .1*.1 + .1*.9 + .9*.1, .3*.7, .2*.2 + .2*.7 + .7*.2])
    assert TruncatedLP(2, 4).prepare(q, [p, p]).selection_distribution().sum() == pytest.approx(1)


def test_truncated_program_leaves_out_a_round_that_would_cost():
    q, ps = np.array([.5, .5, 0, 0]), [np.array([.5, .5, 0, 0]), np.array([0, 0, .5, .5])]
    kept, all_rounds = TruncatedLP(1, None).prepare(q, ps), TruncatedLP(1, 4, skip=False).prepare(q, ps)
    assert kept.acceptance() == 1 and [kept.choose([0, 2], None), kept.choose([1, 3], None)] == [0, 1] and all_rounds.acceptance() <= 1
    worse = [np.array([.25, .25, .25, .25]), np.array([0, 0, 0, 1.])]
    target = np.array([.3, .3, .2, .2])
    assert TruncatedLP(1, 1).prepare(target, worse).acceptance() >= TruncatedLP(1, 1, skip=False).prepare(target, worse).acceptance()


@pytest.mark.parametrize("seed, n, K", [(0, 2, 1), (1, 3, 2), (2, 4, 1), (4, 3, 1)])
def test_program_completes_what_the_solver_leaves(seed, n, K):
    "The solver's solution leaves mass of both sides; the plan is completed without it changing the acceptance."
    rng = np.random.default_rng(seed)
    q = rng.dirichlet(np.full(n, .4))
    ps = [rng.dirichlet(np.full(n, .4)) for _ in range(K)]
    plan = solve_lp(q, ps)
    assert plan.joint.sum(1) == pytest.approx(plan.probabilities, abs=1e-9) and plan.joint.sum(0) == pytest.approx(q, abs=1e-9) and plan.joint.min() >= 0
    assert plan.joint[membership(plan.tuples, n)].sum() == pytest.approx(plan.acceptance) == optimal_acceptance(q, ps)


def test_program_is_solved_in_silence(capfd):
    pair_weights(np.array([.3, .4, .3]), np.array([.2, .3, .5]), np.array([.6, .3, .1]))
    assert capfd.readouterr() == ("", "")


def test_truncated_program_ranks_the_most_likely_tokens():
    q, p = np.random.default_rng(0).dirichlet(np.ones(2000), 2)
    for omega0 in (1, 2, 7, 40, 300, 1999): assert sorted(TruncatedLP(2, omega0, skip=False).prepare(q, [p]*2)._rounds[0][0]) == sorted(np.argsort(-q)[:omega0])
