"core.statistics: each interval against a loop written out, and against simulation."
import numpy as np
import pytest
from hypothesis import given, strategies as st

from tokenstudy import core


def test_interval_equals_the_naive_loop():
    x = np.random.default_rng(1).exponential(size=50)
    rng = np.random.default_rng(5)
    means = [x[row].mean() for row in rng.integers(50, size=(2000, 50))]
    assert core.bootstrap_interval(x, seed=5) == pytest.approx((x.mean(), *np.quantile(means, [.025, .975])), abs=1e-12)
    mean, low, high = core.bootstrap_interval(x, level=.5)
    assert core.bootstrap_interval(x)[1] < low < mean < high < core.bootstrap_interval(x)[2]


def test_interval_works_in_blocks():
    x = np.arange(5000.)
    mean, low, high = core.bootstrap_interval(x)
    assert mean == 2499.5 and high - mean == pytest.approx(1.96*x.std()/5000**.5, rel=.1) and mean - low == pytest.approx(high - mean, rel=.1)


@pytest.mark.parametrize("bad", [[], [[1, 2]], [1, np.nan], [np.inf], 3])
def test_interval_of_nonsense_is_refused(bad):
    with pytest.raises(ValueError): core.bootstrap_interval(bad)


def test_reported_arguments_of_intervals():
    for bad in (dict(level=0.), dict(level=1.), dict(resamples=0)):
        with pytest.raises(ValueError, match="level|resamples"): core.bootstrap_interval([1., 2.], **bad)
        with pytest.raises(ValueError, match="level|resamples"): core.two_way_interval([[1., 2.]], **bad)
        with pytest.raises(ValueError, match="level|resamples"): core.crossed_interval([[1., 2.]], **bad)


# ---- several sources of chance

def test_two_way_interval_equals_the_naive_loop():
    a, b = np.random.default_rng(1).normal(size=(2, 3, 7))
    b = b[:2]
    rng, means = np.random.default_rng(4), []
    for _ in range(200):
        columns = rng.integers(7, size=7)
        rows = [rng.integers(len(t), size=len(t)) for t in (a, b)]
        means.append(np.mean([a[i, j] for i in rows[0] for j in columns]) - np.mean([b[i, j] for i in rows[1] for j in columns]))
    want = (a.mean() - b.mean(), *np.quantile(means, [.025, .975]))
    assert core.two_way_interval(a, b, resamples=200, seed=4) == pytest.approx(want, abs=1e-12)


def test_differences_are_paired_by_question():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 10, 200)
    a, b = hard + .5 + rng.normal(0, .1, (3, 200)), hard + rng.normal(0, .1, (4, 200))
    mean, low, high = core.two_way_interval(a, b)
    assert .4 < low < mean < high < .6                         # unpaired it would be about ±2
    with pytest.raises(ValueError, match="same questions"): core.two_way_interval(a, b[:, 1:])


def test_crossed_interval_equals_the_naive_loop():
    x = np.random.default_rng(1).normal(size=(2, 3, 4))
    rng, means = np.random.default_rng(4), []
    for _ in range(200): means.append(x[np.ix_(*(rng.integers(n, size=n) for n in x.shape))].mean())
    assert core.crossed_interval(x, resamples=200, seed=4) == pytest.approx((x.mean(), *np.quantile(means, [.025, .975])), abs=1e-12)


@pytest.mark.parametrize("shape, spread", [((30, 40), (1, 1)), ((25, 30, 12), (1, .5, .3))])
def test_crossed_interval_covers(shape, spread):
    rng, hits = np.random.default_rng(0), 0
    for trial in range(150):
        x = rng.normal(0, .3, shape)
        for axis, s in enumerate(spread):
            x = x + rng.normal(0, s, shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        _, low, high = core.crossed_interval(x, resamples=300, seed=trial)
        hits += low <= 0 <= high
    assert .88 <= hits/150


def test_paired_interval_averages_within_clusters():
    first = {("a", 0): 1., ("a", 1): 2., ("b", 0): 0., ("c", 0): 9.}
    second = {("a", 0): 2., ("a", 1): 5., ("b", 0): 1., ("d", 0): 9.}
    assert core.paired_interval(first, second, lambda unit: unit[0]) == (*core.bootstrap_interval([2., 1.]), 2)
    assert core.paired_interval(first, second) == (*core.bootstrap_interval([1., 3., 1.]), 3)
    assert core.paired_interval(first, second, seed=3, level=.5) == (*core.bootstrap_interval([1., 3., 1.], .5, seed=3), 3)
    with pytest.raises(ValueError, match="no unit in common"): core.paired_interval(first, {})


# ---- equivalence

@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12), st.floats(.01, 2))
def test_equivalence_is_what_scipy_says(values, bound):
    from scipy import stats
    found = core.equivalence(values, bound)
    assert found["equivalent"] == (found["p"] < .05)
    if np.std(values) < 1e-6: return
    below = stats.ttest_1samp(values, bound, alternative="less").pvalue
    above = stats.ttest_1samp(values, -bound, alternative="greater").pvalue
    assert found["p"] == pytest.approx(max(below, above), abs=1e-9)
    if abs(found["p"] - .05) > 1e-6: assert found["equivalent"] == (-bound < found["low"] and found["high"] < bound)
    low, high = stats.t.interval(.9, len(values) - 1, np.mean(values), stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-9)


def test_equivalence_is_claimed_wrongly_no_more_often_than_it_says():
    rng = np.random.default_rng(0)
    claimed = np.mean([core.equivalence(rng.normal(.5, 1, 40), .5)["equivalent"] for _ in range(2000)])
    assert .03 < claimed < .07
    assert np.mean([core.equivalence(rng.normal(0, 1, 60), .5)["equivalent"] for _ in range(200)]) > .8


@pytest.mark.parametrize("values, bound", [([1], 1), ([[1, 2]], 1), ([1, np.nan], 1), ([1, 2], 0), ([1, 2], -1), ([1, 2], np.inf)])
def test_equivalence_of_nonsense_is_refused(values, bound):
    with pytest.raises(ValueError): core.equivalence(values, bound)


# ---- shares

def test_wilson_covers():
    from scipy.stats import binom
    for n, p in ((64, .05), (20, .5), (200, .01)):
        k = np.arange(n + 1)
        low, high = core.wilson(k, n)
        assert binom.pmf(k, n, p)[(low <= p) & (p <= high)].sum() > .92


@pytest.mark.parametrize("n, k", [(1, 0), (1, 1), (2, 1), (5, 1), (3, 0), (15, 0), (20, 0), (3, 3), (10, 10), (20, 20), (20, 7), (64, 3), (2**32, 2**31)])
@pytest.mark.parametrize("level", [.5, .95])
def test_wilson_is_the_roots_of_its_equation(n, k, level):
    "The shares p for which k/n lies exactly z standard errors of p away: (k/n - p)² = z² p (1 - p) / n."
    from scipy.stats import norm
    z2, share = norm.ppf((1 + level)/2)**2, k/n
    low, high = sorted(np.roots([1 + z2/n, -(2*share + z2/n), share**2]).real)
    assert [float(x) for x in core.wilson(k, n, level)] == pytest.approx([low, high], abs=1e-12, rel=1e-7)
    assert core.wilson(k, n, level)[0] == 0 or k > 0                     # exactly, not by rounding
    assert core.wilson(k, n, level)[1] == 1 or k < n


def test_wilson_of_several_and_of_nothing():
    low, high = core.wilson([0, 0, 1, 2], [0, 2, 2, 2])
    assert (low[0], high[0]) == (0, 1) and low.tolist() == sorted(low) and (high[0], high[3]) == (1, 1)
    assert [list(core.wilson(k, 2)) for k in (0, 1, 2)] == np.transpose([low, high])[1:].tolist()
    assert core.wilson(3, 64) == core.wilson(3, 64, .95) != core.wilson(3, 64, .9)
    assert [(k, n) for n in (0, 1, 2) for k in range(n + 1) if not 0 <= core.wilson(k, n)[0] < core.wilson(k, n)[1] <= 1] == []
    for bad in ((-1, 2), (3, 2), ([1, -1], [2, 2])):
        with pytest.raises(ValueError, match="between 0 and n"): core.wilson(*bad)
    for level in (0, 1, 1.5, -.5):
        with pytest.raises(ValueError, match="level"): core.wilson(1, 2, level)


def test_pass_at_k_is_counted():
    from itertools import combinations
    for n in range(1, 6):
        for correct in range(n + 1):
            for k in range(1, n + 1):
                hits = [any(i < correct for i in some) for some in combinations(range(n), k)]
                assert core.pass_at_k(n, correct, k) == pytest.approx(np.mean(hits), abs=1e-12)
    for bad in ((3, 4, 1), (3, -1, 1)):
        with pytest.raises(ValueError, match="correct"): core.pass_at_k(*bad)
    for bad in ((3, 1, 0), (3, 1, 4)):
        with pytest.raises(ValueError, match="^k = "): core.pass_at_k(*bad)


# ---- what the arguments are by default, and in which precision one counts

SKEWED = np.random.default_rng(2).exponential(size=(3, 40))


def test_defaults_of_intervals():
    spelled, units = dict(level=.95, resamples=2000, seed=0), [dict(enumerate(row)) for row in SKEWED[:2].tolist()]
    for interval, given in ((core.bootstrap_interval, [SKEWED[0]]), (core.two_way_interval, [SKEWED]), (core.crossed_interval, [SKEWED]), (core.paired_interval, units)):
        found = interval(*given)
        assert found == interval(*given, **spelled)
        for change in (dict(level=.9), dict(resamples=1999), dict(resamples=2001), dict(seed=1)): assert found != interval(*given, **(spelled | change))


def test_intervals_count_in_double_precision():
    "Numbers in float32 give what the same numbers give in float64; whole numbers and booleans are numbers too."
    coarse = (1000 + SKEWED).astype(np.float32)
    fine = coarse.astype(float)
    assert core.bootstrap_interval(coarse[0]) == core.bootstrap_interval(fine[0]) and core.crossed_interval(coarse) == core.crossed_interval(fine)
    assert core.two_way_interval(coarse, coarse[1:]) == core.two_way_interval(fine, fine[1:]) and core.equivalence(coarse[0], 2000) == core.equivalence(fine[0], 2000)
    assert core.bootstrap_interval([True, False]) == core.bootstrap_interval([1, 0]) == core.bootstrap_interval([1., 0.])


def test_interval_in_blocks_equals_the_naive_loop():
    x, rng = np.random.default_rng(1).exponential(size=5000), np.random.default_rng(5)
    means = [x[rng.integers(5000, size=5000)].mean() for _ in range(900)]             # two blocks
    assert core.bootstrap_interval(x, seed=5, resamples=900) == pytest.approx((x.mean(), *np.quantile(means, [.025, .975])), abs=1e-12)


def test_two_way_interval_of_one_table():
    rng, means, x = np.random.default_rng(4), [], SKEWED
    for _ in range(200):
        columns, rows = rng.integers(40, size=40), rng.integers(3, size=3)
        means.append(x[np.ix_(rows, columns)].mean())
    assert core.two_way_interval(x, resamples=200, seed=4) == pytest.approx((x.mean(), *np.quantile(means, [.025, .975])), abs=1e-12)
    for bad in ([1., 2.], [[[1.]]], [[]], 3.):
        with pytest.raises(ValueError, match="seeds × questions"): core.two_way_interval(bad)


def test_what_is_not_finite_is_named_by_its_place():
    with pytest.raises(ValueError, match=r"^values\[1\] is not finite"): core.bootstrap_interval([1, np.nan, np.inf])
    with pytest.raises(ValueError, match=r"^values\[1, 0\] is not finite"): core.two_way_interval([[1, 2], [np.inf, 2]])


def test_equivalence_of_numbers_that_are_all_alike():
    "No spread: equivalent inside of the bound, and neither on it nor outside."
    for value, p in ((0., 0), (.5, 0), (-.9, 0), (1., 1), (-1., 1), (2., 1)):
        assert core.equivalence([value]*3, 1.) == dict(mean=value, low=value, high=value, bound=1., p=p, equivalent=not p)
    edge = core.equivalence([0., .5], .25, level=.5)                                   # p is exactly 1 - level
    assert (edge["p"], edge["equivalent"], edge["mean"], edge["bound"]) == (.5, False, .25, .25)
