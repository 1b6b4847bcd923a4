"Coins, draws and scripts, checked distributions, and each scheme's numbers by hand."
import copy

import numpy as np
import pytest
import torch

from tokenstudy.multidraft.schemes import (ExactDistribution, NaiveLookup, Scheme, Script, SingleDraft, SpecInfer, SpecTr, all_branches, as_distribution, as_distributions, draw,
                                           draw_cumulative, exact_distribution, flip, identical)

Q, P = [.5, .3, .2], [.2, .3, .5]


class Dice:
    "A generator whose numbers in [0, 1) are given."
    def __init__(self, *numbers): self.numbers = list(numbers)
    def random(self): return self.numbers.pop(0)


# --- coins and draws

def test_a_coin_shows_true_below_its_probability():
    assert flip(Dice(.25), .3) is True and flip(Dice(.3), .3) is False and flip(Dice(.31), .3) is False and flip(Dice(0.), 0.) is False and flip(Dice(1 - 1e-16), 1.) is True
    assert flip(Script([1]), .25) is True and flip(Script([0]), .25) is False


def test_a_draw_follows_the_cumulative_weights():
    for number, token in ((0., 1), (.2, 1), (.25, 3), (.5, 3), (.999, 3)): assert draw(Dice(number), [0, 1, 0, 3, 0]) == draw_cumulative(Dice(number), np.array([0, 1, 1, 4, 4])) == token
    assert draw_cumulative(Dice(1.), np.array([0, 1, 1, 4, 4])) == 3                            # rounding up to the sum gives no token of weight zero
    assert type(draw(Dice(.5), [1, 1])) is int and type(draw(Script(), [1, 1])) is int and draw(Script([1]), [1, 3]) == 1
    for nothing in ([0, 0], [0.]):
        with pytest.raises(ValueError, match="^cannot draw: all weights are zero"): draw(Dice(.5), nothing)


def test_a_script_takes_what_is_prescribed_then_the_first():
    script = Script([2, 0])
    assert [script.draw([1, 1, 2]), script.draw([3, 1]), script.draw([0, 1, 0, 3]), script.flip(.75)] == [2, 0, 1, False]
    assert script.taken == [2, 0, 1, 0] and script.weight == .5*.75*.25*.25 and script.others == [[2, 0, 3], [2, 0, 1, 1]]
    for probability, others in ((1., []), (0., []), (1 + 1e-12, []), (-1e-12, []), (.5, [[1]])):
        script = Script()
        assert script.flip(probability) == (probability > .6) and script.others == others and script.weight == (1 if not others else .5)
    for bad in (-1e-9, 1 + 1e-9, 2., -1.):
        with pytest.raises(ValueError, match="^a coin was flipped with probability"): Script().flip(bad)
    with pytest.raises(ValueError, match="^probability is not a number"): flip(Dice(.5), np.nan)
    assert flip(Dice(.5), .6) is True and flip(Dice(.5), .5) is False
    for bad in ([0., 0.], [], [[.5, .5]], 3.):
        with pytest.raises(ValueError, match="^weights: expected one positive"): Script().draw(bad)
    for bad in ([], np.ones((2, 2)), 1.):
        with pytest.raises(ValueError, match="^total: expected sums"): draw_cumulative(Dice(0.), bad)
    assert Script().outcomes == Script([]).outcomes == [] and sorted(all_branches(lambda rng: (rng.draw([1, 3]), rng.flip(.5)))) == [(.125, (0, False)), (.125, (0, True)), (.375, (1, False)), (.375, (1, True))]


# --- distributions

def test_a_distribution_may_miss_one_by_what_its_numbers_allow():
    for width, dtype, within in ((8, np.float64, 1e-6), (4, np.float32, 1e-4), (2, np.float16, 5e-3)):
        for sign in (-1, 1):
            assert as_distribution(np.array([.5, .5 + sign*.6*within], dtype)).sum() == pytest.approx(1, abs=1e-15)
            with pytest.raises(ValueError, match=f"^p: sums to (1.0|0.9).*normalise it first"): as_distribution(np.array([.5, .5 + sign*1.7*within], dtype), "p")
    for tensor, within in ((torch.float64, 1e-6), (torch.float32, 1e-4), (torch.bfloat16, 5e-3)):
        assert as_distribution(torch.tensor([1 - .4*within, 0], dtype=tensor)).tolist() == [1, 0]
        with pytest.raises(ValueError, match="^q: sums to"): as_distribution(torch.tensor([1 - 2*within, 0], dtype=tensor))
    for exact in ([1, 0], np.array([True, False]), np.array([1, 0], np.uint8), torch.tensor([1, 0])): assert as_distribution(exact).tolist() == [1, 0] and as_distribution(exact).dtype == np.float64
    learned = torch.tensor([.25, .75], requires_grad=True)
    assert as_distribution(learned).tolist() == [.25, .75]


def test_a_bad_distribution_is_named_with_its_token():
    for bad, message in (([], r"^q: expected one distribution of shape \[n\] with n ≥ 1, got shape \[0\]"), (.5, r"got shape \[\]"), ([[1.]], r"got shape \[1, 1\]"), ([.5, np.nan, np.inf], "^q: nan at token 1; "),
                         ([np.inf, -np.inf], "^q: inf at token 0; "), ([.6, -.2, .6], "^q: negative probability -0.2 at token 1"), ([.5, .4], "^q: sums to 0.9, not to 1"), (["a"], "^q: probabilities must be real numbers"),
                         ([1j], "must be real numbers, got dtype complex128"), ([None], "must be real numbers")):
        with pytest.raises(ValueError, match=message): as_distribution(bad)
    for bad, message in ((None, "^ps = None"), ([], "^ps: K = 0"), ([.5, .5], r"^ps: expected K distributions \(a list"), ((.5, .5), "for one draft"), (np.array([.5, .5]), "for one draft"),
                         ([[.5, .5], [.2, .3, .5]], r"^ps\[1\]: has 3 tokens but q has 2"), ([[.5, .5], [.2, .3]], r"^ps\[1\]: sums"), ([[.5, .5], 3], r"^ps\[1\]: expected one distribution"),
                         ([[[.5, .5]]], r"^ps\[0\]: expected one distribution of shape \[n\] with n ≥ 1, got shape \[1, 2\]")):
        with pytest.raises(ValueError, match=message): as_distributions([.5, .5], bad)
    with pytest.raises(ValueError, match="^q: sums"): as_distributions([.5, .4], [[.5, .5]])


def test_equal_drafts_are_one_object():
    raw = [.2, .8]
    q, ps = as_distributions([.5, .5], [raw, [.8, .2], raw, np.array(raw), torch.tensor([.8, .2], dtype=torch.float64)])
    assert ps[0] is ps[2] is ps[3] and ps[1] is ps[4] and ps[0] is not ps[1] and [p.tolist() for p in ps] == [raw, [.8, .2], raw, raw, [.8, .2]]
    assert not identical(ps) and identical(ps[:1]) and identical([ps[1], ps[4]]) and not identical([ps[1], ps[0]])
    assert identical(as_distributions([.5, .5], np.array([raw]*3))[1]) and identical(as_distributions([.5, .5], torch.tensor([raw]*3))[1])
    assert len(as_distributions([.5, .5], np.array([raw]*3))[1]) == 3


# --- what every scheme does

def test_prepare_binds_and_select_accepts_by_the_ratio():
    rule = SingleDraft()
    assert rule.prepare(Q, [P, Q]) is rule and (rule.n, rule.K, rule.drafted) == (3, 2, 2) and rule.accepted_probabilities().tolist() == [.2, .3, .2] and rule.acceptance() == pytest.approx(.7)
    assert rule.select([0, 2], Dice(.999)) == (0, True) and rule.select((1, 0), Dice(.999)) == (1, True)          # q ≥ p: kept for certain
    assert rule.select([2, 0], Dice(.39)) == (2, True) and rule.select([2, 0], Dice(.41, .5)) == (0, False)      # q/p = .4, and the residual is token 0
    assert [type(x) for x in rule.select(np.array([2, 0]), Dice(.39))] == [int, bool] and rule.check(np.array([1, 1])) == (1, 1)
    assert rule.redraw(Dice(0.)) == 0 == rule.redraw(Script()) and rule.selection_distribution().tolist() == P
    whole = SingleDraft().prepare(Q, [Q])
    assert whole.redraw(Dice(.6)) == 1 and whole.acceptance() == 1                                               # no residual: from q itself
    never = SingleDraft().prepare([0, .5, .5], [[.5, .5, 0]])
    assert never.select([0], Dice(0., .9)) == (2, False)                                                         # q = 0: not with probability 0 < 0
    assert rule.draft(Dice(.1, .7)) == (0, 1) and never.draft(Dice(.6)) == (1,)


def test_a_redraw_is_from_what_acceptance_leaves():
    rule = SingleDraft().prepare([.4, .3, .2, .1], [[.1, .1, .3, .5]])
    assert [rule.redraw(Dice(x)) for x in (0., .59, .61, .99)] == [0, 0, 1, 1]                                   # .3 and .2 are left
    assert [weight for weight, _ in all_branches(rule.redraw)] == pytest.approx([.6, .4])
    kept = rule._residual
    assert rule.redraw(Dice(.5)) == 0 and rule._residual is kept and rule.prepare(Q, [P])._residual is None


def test_an_acceptance_is_at_most_one():
    "Whatever the last digits of the sums are."
    drawn = [SingleDraft().prepare(q, [q]) for q in np.random.default_rng(0).dirichlet(np.ones(30), 50)]
    assert max(rule.accepted_probabilities().sum() for rule in drawn) > 1 and max(rule.acceptance() for rule in drawn) == 1


def test_refusals_of_schemes_are_named():
    rule = SingleDraft().prepare([.5, .5, 0], [[.5, .5, 0]]*2)
    for drafts, message in (([0], "^drafts: 1 drafted tokens, but the scheme was prepared for K = 2"), ([0, 1, 1], "^drafts: 3 drafted tokens"), ([0, 3], "^draft 1: token 3 is outside the vocabulary of 3"), ([-1, 0], "^draft 0: token -1 is outside"),
                            ([0, 2], "^draft 1: token 2 has probability 0"), ([.5, 1], "expected K whole numbers"), (["a", 1], "expected K whole numbers")):
        with pytest.raises(ValueError, match=message): rule.check(drafts)
        with pytest.raises(ValueError, match=message): rule.select(drafts, Dice())
    for call in (lambda: NaiveLookup().prepare(Q, [P]).selection_distribution(), lambda: Scheme().prepare(Q, [P]).selection_distribution(), lambda: SpecTr().prepare(Q, [P]).choose([0], Dice())):
        with pytest.raises(ValueError, match="^(NaiveLookup|Scheme|SpecTr) does not select one token before it accepts"): call()
    with pytest.raises(AttributeError, match=r"^SingleDraft has no 'ps'; was prepare\(q, ps\) called"): SingleDraft().ps
    before = copy.copy(vars(rule))
    with pytest.raises(ValueError): rule.prepare([.5, .5], [[.5, .4]])
    assert vars(rule) == before


def test_an_enumeration_by_hand():
    found = exact_distribution(NaiveLookup(), [.5, .5], [[.75, .25]]*2)
    assert found == ExactDistribution(pytest.approx(np.array([.5, .5])), pytest.approx(.5*(1 - .0625) + .5*(1 - .5625)), pytest.approx(.6875))
    class Lucky(SingleDraft):
        "Never accepts."
        def select(self, drafts, rng): return draw(rng, self.q), False
    found = exact_distribution(Lucky(), [.5, .5], [[.75, .25]])
    assert (found.acceptance, found.in_drafts) == (0, .5) and found.distribution.tolist() == [.5, .5] and type(found.acceptance) is type(found.in_drafts) is float
    rule = SingleDraft()
    exact_distribution(rule, Q, [P])
    assert not vars(rule)


# --- the baselines

def test_naive_lookup_by_hand():
    rule = NaiveLookup().prepare(Q, [P, [.6, .4, 0]])
    assert rule.accepted_probabilities() == pytest.approx([.5*(1 - .8*.4), .3*(1 - .7*.6), .2*(1 - .5)])
    assert rule.select([2, 1], Dice(.6)) == (1, True) and rule.select([2, 1], Dice(.4)) == (0, False) and rule.select([2, 1], Dice(.9)) == (2, True)
    with pytest.raises(ValueError, match="2 is not|token 2 has"): rule.select([0, 2], Dice())


def test_spectr_by_hand():
    "Two drafts: rho solves 1 - (1 - β)² = ρ β with β = Σ min(p, q/ρ)."
    rule = SpecTr().prepare(Q, [P]*2)
    beta = lambda rho: np.minimum(P, np.array(Q)/rho).sum()
    assert 1 - (1 - beta(rule.rho_))**2 == pytest.approx(rule.rho_*beta(rule.rho_), abs=1e-12) and 1 < rule.rho_ < 2
    assert rule.accepted_probabilities() == pytest.approx(np.minimum(P, np.array(Q)/rule.rho_)*(1 + (1 - beta(rule.rho_))))
    two = SpecTr(rho=2).prepare(Q, [P]*2)
    assert two.rho_ == 2. and type(two.rho_) is float and two.accepted_probabilities() == pytest.approx(np.array([.2, .15, .1])*(1 + .55))
    assert two.select([2, 1], Dice(.19)) == (2, True) and two.select([2, 1], Dice(.21, .49)) == (1, True)        # .2/(2·.5), .3/(2·.3)
    assert two.select([2, 1], Dice(.21, .51, 0.))[1] is False and two.select([0, 0], Dice(.999)) == (0, True)    # .5/(2·.2) ≥ 1
    for rho in (1., 1.0001, 2.0001, .5, -1):
        with pytest.raises(ValueError, match=r"^rho = .* does not keep the distribution: it must lie in \[rho\*, K\] = \[rho\*, 2\]"): SpecTr(rho=rho).prepare(Q, [P]*2)
    assert SpecTr(rho=1).prepare(Q, [Q]).acceptance() == 1 and SpecTr().prepare([1, 0], [[0, 1]]*2).acceptance() == 0
    assert SpecTr().prepare(Q, [P]).rho_ == 1 and SpecTr().prepare(Q, [Q]*3).rho_ == pytest.approx(1, abs=1e-5)
    assert SpecTr(rho=rule.rho_).prepare(Q, [P]*2).acceptance() == pytest.approx(rule.acceptance(), abs=1e-12)
    with pytest.raises(ValueError, match="^SpecTr's k-SEQ is defined for identical drafts"): SpecTr().prepare(Q, [P, Q])


def test_specinfer_by_hand():
    "Accept .7 at the first try; what is left of q is (1, 0, 0), and the second draft is accepted if it is token 0."
    rule = SpecInfer().prepare(Q, [P]*2)
    assert rule.accepted_probabilities() == pytest.approx([.2 + .3*.2, .3, .2]) and rule.acceptance() == pytest.approx(.76)
    assert rule.select([2, 0], Dice(.39)) == (2, True) and rule.select([2, 0], Dice(.41, .999)) == (0, True) and rule.select([2, 1], Dice(.41, 0., .5)) == (0, False)
    other = SpecInfer().prepare(Q, [P, [.1, .1, .8]])
    assert other.acceptance() == pytest.approx(.7 + .3*.1) and other.select([2, 0], Dice(.5, .9)) == (0, True)
    assert SpecInfer().prepare(Q, [Q]*2).acceptance() == 1
    assert rule.draft(Dice(.1, .1)) == (0, 0) and rule.replacement and not SpecInfer(replacement=False).replacement


def test_specinfer_without_replacement_by_hand():
    rule = SpecInfer(replacement=False).prepare(Q, [P]*2)
    assert rule.drafted == 2 and rule.draft(Dice(.6, .3)) == (2, 0) and rule.draft(Dice(.1, .9)) == (0, 2) and rule.draft(Script()) == (0, 1)
    assert rule.select([2, 1], Dice(.41, 0., .3)) == (0, False)                          # q becomes (1, 0, 0), the draft (.4, .6, 0): token 1 is not kept
    assert rule.select([2, 0], Dice(.41, .999)) == (0, True)
    assert SpecInfer(replacement=False).prepare([1, 0, 0], [[.5, .5, 0]]*3).drafted == 2 and len(SpecInfer(replacement=False).prepare([1, 0, 0], [[.5, .5, 0]]*3).draft(Dice(.1, .1))) == 2
    with pytest.raises(ValueError, match="^drafts .* repeat a token"): rule.select([1, 1], Dice())
    with pytest.raises(ValueError, match="^recursive rejection without replacement has no closed form"): rule.acceptance()
    with pytest.raises(ValueError, match="^drawing without replacement needs identical drafts"): SpecInfer(replacement=False).prepare(Q, [P, Q])
    alone = SpecInfer(replacement=False).prepare([.5, .5], [[1, 0]]*2)                    # one token can be drawn at all
    assert alone.drafted == 1 and alone.select([0], Dice(.6, .2)) == (1, False)


def test_details_of_schemes_at_their_edges():
    assert SingleDraft().replacement is SpecTr().replacement is True and SingleDraft().prepare([1, 0], [[1, 0]]*2).drafted == 2
    assert SpecInfer().prepare(Q, [Q]*3).accepted_probabilities() == pytest.approx(Q) and SpecTr().prepare(Q, [P]).select([2], Dice(.39)) == (2, True)
    class Counts(SingleDraft):
        def __init__(self): self.seen = []
        def select(self, drafts, rng): return self.seen.append(drafts) or super().select(drafts, rng)
    rule = Counts()
    assert exact_distribution(rule, Q, [P]).acceptance == pytest.approx(.7) and rule.seen == []


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-6), (torch.float32, 1e-4), (torch.float16, 5e-3), (torch.bfloat16, 5e-3), (np.float64, 1e-6), (np.float32, 1e-4), (np.float16, 5e-3)], ids=str)
def test_reported_sums_are_as_near_to_one_as_the_docstring_says(dtype, bound):
    def made(total):
        values = np.full(256, total/256)
        return torch.tensor(values, dtype=dtype) if isinstance(dtype, torch.dtype) else values.astype(dtype)
    reached = {}
    for sign in (-1, 1):
        for share in (.5, .8, 1.3, 2):
            q = made(1 + sign*share*bound)
            off = abs(float(np.asarray(q.double() if hasattr(q, "double") else q, float).sum()) - 1)
            reached[off < bound] = True
            if off < bound: assert as_distribution(q).sum() == pytest.approx(1)
            else:
                with pytest.raises(ValueError, match="sums to"): as_distribution(q)
    assert len(reached) == 2
    said = {1e-6: "1e-6 in float64", 1e-4: "1e-4 in float32", 5e-3: "5e-3 in\n    half precision"}[bound]
    assert said in as_distribution.__doc__
