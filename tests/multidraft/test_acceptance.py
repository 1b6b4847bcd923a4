"Every scheme against the optimum on one pair of distributions, and the summary of a study's records, by hand."
import numpy as np
import pytest

from tokenstudy import core
from tokenstudy.multidraft.acceptance import SCHEME_NAMES, compare_schemes, summarise
from tokenstudy.multidraft.canonical import TruncatedLP, subset_minimum
from tokenstudy.multidraft.optimal import Optimal
from tokenstudy.multidraft.schemes import NaiveLookup, SingleDraft, SpecInfer, SpecTr, exact_distribution

Q, P = [.05, .4, .1, .25, .2], [.5, .05, .2, .05, .2]


@pytest.mark.parametrize("K", [1, 2, 3])
def test_acceptance_of_each_scheme_is_that_of_its_enumeration(K):
    found = compare_schemes(Q, P, K)
    assert sorted(found) == sorted(SCHEME_NAMES) and {type(x) for x in found.values()} == {float}
    for scheme in (SingleDraft(), NaiveLookup(), SpecInfer(), SpecTr(), TruncatedLP(), Optimal()):
        assert found[type(scheme).__name__] == pytest.approx(exact_distribution(scheme, Q, [P] * K).acceptance, abs=1e-9)
    assert found["Optimal"] == pytest.approx(subset_minimum(Q, [P] * K)[0], abs=1e-12)
    assert SCHEME_NAMES == ("NaiveLookup", "SingleDraft", "SpecInfer", "SpecTr", "TruncatedLP", "Optimal")


def record(draft, temperature, top_p, values, ones, seed=0, experiment="acceptance", Ks=(2, 4)):
    "A unit of two positions; each scheme a step below the next one."
    acceptance = {f"{name} {K}": [v - .01*i*K for v in values] for K in Ks for i, name in enumerate(SCHEME_NAMES[::-1])}
    return dict(config=dict(experiment=experiment, draft=draft, temperature=temperature, top_p=top_p, Ks=list(Ks), seed=seed),
                result=dict(acceptance=acceptance, positions=len(values), ones={str(K): ones for K in Ks}))


def test_acceptance_summary_by_hand():
    records = [record("b", 1., 1., [.9, .7], [True, False]), record("a", .7, 1., [.5, .6, .7], [False]*3), record("b", 1., 1., [.8, .95, .4], [True, True, False], seed=1),
               record("b", .5, .9, [.3, .2], [False, False]), record("a", .7, 1., [.1], [True], experiment="other"), record("a", .7, 1., [.1], [True], Ks=(3,))]
    rows = summarise(records, 2)
    assert [(r["draft"], r["temperature"], r["top_p"], r["K"], r["seeds"], r["positions"]) for r in rows] == [("a", .7, 1., 2, 1, 3), ("b", .5, .9, 2, 1, 2), ("b", 1., 1., 2, 2, 5)]
    pooled = np.array([.9, .7, .8, .95, .4])
    for i, name in enumerate(SCHEME_NAMES[::-1]):
        assert rows[2][name] == pytest.approx(core.bootstrap_interval(pooled - .02*i), abs=1e-9)
        assert rows[2]["gap"][name] == pytest.approx((.02*i, .02*i, .02*i), abs=1e-9)              # paired: no spread at all
    assert [r["ones"] for r in rows] == [0, 0, .6] and list(rows[0]["gap"]) == list(SCHEME_NAMES)
    assert set(rows[0]) == {"draft", "temperature", "top_p", "K", "seeds", "positions", "gap", "ones", *SCHEME_NAMES}
    assert summarise(records, 4)[2]["SpecTr"] == pytest.approx(core.bootstrap_interval(pooled - .04*2), abs=1e-9)
    assert [r["draft"] for r in summarise(records, 3)] == ["a"] and summarise(records, 5) == []
