"The contrastive distribution, selection of samples, signals and how they point, views."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from tokenstudy import lm as lms
from tokenstudy.cdpo import contrast as X
from tokenstudy.cdpo.critical import Critical, TrajectoryError, critical_token, identify
from cdpo.toy_truth import FREE, clean, toy, wrong


LOGITS = st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4)


@given(LOGITS, LOGITS, st.floats(0, 5))
def test_critical_contrast_is_a_distribution(p, q, ce_beta):
    p, q = torch.tensor([p]).log_softmax(-1), torch.tensor([q]).log_softmax(-1)
    law = X.contrastive_distribution(p, q, ce_beta)
    assert law.isfinite().all() and abs(float(law.exp().sum()) - 1) < 1e-9
    assert torch.allclose(X.contrastive_distribution(p + 3, q - 2, ce_beta), law, atol=1e-6)     # constants cancel
    assert torch.allclose(X.contrastive_distribution(p, p, ce_beta), p.double(), atol=1e-6)
    assert torch.allclose(X.contrastive_distribution(p, q, 0), p.double(), atol=1e-6)
    by_hand = ((1 + ce_beta) * p.double() - ce_beta * q.double()).softmax(-1)
    for v in range(4): assert abs(float(X.contrastive_scores(p, q, [v], ce_beta=ce_beta)[0]) - float(by_hand[0, v])) < 1e-9


def test_critical_contrast_of_normal_distributions_is_normal():
    x = torch.linspace(-15, 15, 3001, dtype=torch.float64)
    normal = lambda mean: (-(x - mean)**2 / (2 * 1.2**2)).log_softmax(-1)
    for b in (.5, 1, 2): assert (X.contrastive_distribution(normal(.7), normal(-.4), b).exp() - normal(.7 + b * 1.1).exp()).abs().max() < 1e-12


def test_critical_contrast_without_mass_is_the_limit():
    p, q = torch.tensor([.4, .3, .2, .1], dtype=torch.float64), torch.tensor([.5, 0, 0, .5], dtype=torch.float64)
    near = X.contrastive_distribution(p.log(), (q + 1e-300).log(), 1).exp()
    assert torch.allclose(X.contrastive_distribution(p.log(), q.log(), 1).exp(), near) and abs(float(near[1]) - .09 / .13) < 1e-9
    both = X.contrastive_distribution(torch.tensor([.5, .5, 0.]).log(), torch.tensor([.2, .8, 0.]).log(), 1)
    assert abs(float(both.exp()[0]) - .8) < 1e-6 and float(both[2]) == -math.inf
    for bad in (torch.tensor([math.nan, 0.]), torch.tensor([math.inf, 0.]), torch.full((2,), -math.inf)):
        with pytest.raises(ValueError): X.contrastive_distribution(bad, torch.zeros(2))
    with pytest.raises(ValueError, match="shapes differ"): X.contrastive_distribution(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="ce_beta"): X.contrastive_distribution(torch.zeros(2), torch.zeros(2), -1)
    with pytest.raises(ValueError, match="do not fit"): X.contrastive_scores(torch.zeros(2, 4), torch.zeros(2, 4), [0])


class Sample:
    def __init__(self, answer, correct, ids=(1,)): self.answer, self.correct, self.prompt_ids, self.response_ids = answer, correct, [1], list(ids)


def test_critical_selection_of_samples():
    rng, answers = np.random.default_rng(0), list("abacabdefg")
    chosen = [X.select_negative(answers, [False] * 10, rng) for _ in range(60)]
    assert all(sorted(answers[i] for i in c) == ["a", "b"] for c in chosen)
    assert {i for c in chosen for i in c} == {0, 2, 4, 1, 5}          # any of them
    assert X.select_negative(["a", None, None], [False] * 3, rng) == [0] and X.select_negative([None, "x"], [False, True], rng) == []
    assert {X.select_positive([True, False, True], rng) for _ in range(40)} == {0, 2} and X.select_positive([False], rng) is None
    problems = [[Sample("1", True), Sample("2", False), Sample("2", False), Sample("3", False)], [Sample("1", True)], [Sample(None, False)]]
    right, other, report = X.contrast_sets(problems)
    assert [s.answer for s in right] == ["1", "1"] and [s.answer for s in other] == ["2"]
    assert report == {"problems": 3, "without a correct sample": 1, "without a wrong answer": 2, "samples without an answer": 1}
    with pytest.raises(ValueError, match="answers, but"): X.select_negative(["a"], [], rng)
    with pytest.raises(ValueError, match="list is empty"): X.contrast_model(lms.tiny_lm(vocab=8), [])


@pytest.mark.parametrize("lora", [0, 4])
def test_critical_contrast_models_learn_their_samples(toy, lora):
    samples = lms.sample(toy, [[1, 2], [4]] * 4, max_new_tokens=5, seed=3)
    texts = [s.prompt_ids + s.response_ids for s in samples]
    before = lms.token_logprobs(toy, texts)[0]
    taught = X.contrast_model(toy, samples, epochs=4, lr=3e-3, batch_size=3, lora=lora)
    fit = lambda read: float(sum(read[i, len(s.prompt_ids):].sum() for i, s in enumerate(samples)))
    assert fit(lms.token_logprobs(taught, texts)[0]) > fit(before)
    assert torch.equal(lms.token_logprobs(toy, texts)[0], before)               # the base is as it was
    again = X.contrast_model(toy, samples, epochs=4, lr=3e-3, batch_size=3, lora=lora)
    assert torch.equal(lms.token_logprobs(again, texts)[0], lms.token_logprobs(taught, texts)[0])


def test_critical_signals_belong_to_their_tokens(toy, wrong):
    one, other = wrong[0], lms.tiny_lm("llama", vocab=8, seed=1)
    told = np.linspace(.8, .1, len(one.response_ids))
    signals = X.token_signals(toy, other, toy, one, values=told)
    assert np.allclose(signals["drop"], [0, *(told[:-1] - told[1:])], atol=1e-6) and "drop" not in X.token_signals(toy, other, toy, one)
    assert set(signals) == set(X.SIGNALS) and all(x.shape == (len(one.response_ids),) for x in signals.values())
    read = lms.token_logprobs(toy, [one.prompt_ids + one.response_ids])[0][0, len(one.prompt_ids):].numpy()
    assert np.allclose(signals["probability"], read, atol=1e-4) and np.allclose(signals["ratio"], signals["positive"] - signals["probability"])
    assert np.allclose(X.token_signals(toy, other, toy, one, ce_beta=0)["contrast"], signals["positive"])
    assert (signals["entropy"] > 0).all() and (signals["entropy"] <= math.log(8)).all()
    with pytest.raises(TrajectoryError): X.token_signals(toy, toy, toy, ([1], []))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=8), st.data())
def test_critical_pointing_breaks_ties_at_random(values, data):
    index = data.draw(st.integers(0, len(values) - 1))
    found, others = X.pointing(values, index), [v for i, v in enumerate(values) if i != index]
    ties = values.count(values[index])
    ranks = [1 + sum(v > values[index] for v in values) + i for i in range(ties)]
    assert found["rank"] == np.mean(ranks)
    assert math.isclose(found["auc"], np.mean([1. if values[index] > v else .5 if values[index] == v else 0 for v in others]))
    for k in (1, 3): assert math.isclose(found[f"hit@{k}"], np.mean([r <= k for r in ranks]))


def test_critical_pointing_bad_input():
    for bad in (([.1, math.nan], 0), ([.1], 1), ([[.1]], 0)):
        with pytest.raises(ValueError): X.pointing(*bad)
    assert X.pointing([.3], 0)["auc"] is None


def test_critical_views_are_static_and_escaped(toy, wrong):
    found = identify(toy, wrong[0], clean, num_samples=16, **FREE)
    T = len(wrong[0].response_ids)
    signals = X.token_signals(toy, lms.tiny_lm("llama", vocab=8, seed=1), toy, wrong[0])
    views = X.token_views(["<script>alert(1)</script>"] * T, found, signals, title="<b>")
    made = views._repr_html_()
    assert "<script" not in made and "<b>" not in made and made.count("<details") == 4 and made.count(" open") == 1 and "outline" in made
    assert repr(views).count("»") == 4 and "[rollouts]" in repr(views)
    with pytest.raises(ValueError): X.TokenViews({})


def test_critical_bounds_and_shares_are_exact():
    for later in (0, float("nan"), -1, 2):
        with pytest.raises(ValueError, match="later"): critical_token([.5, 0, 0], later)
    with pytest.raises(ValueError, match="before"): critical_token([.5, 0, 0], before=2.)
    rng = np.random.default_rng(0)
    answers = ["a"] * 7 + [f"b{i}" for i in range(43)]
    assert X.select_negative(answers, [False] * 50, rng, share=.14)[0] < 7 and len(X.select_negative(answers, [False] * 50, rng, share=.14)) == 1
    with pytest.raises(ValueError, match="vocabulary"): X.contrastive_scores(torch.zeros(1, 4), torch.zeros(1, 4), [4])
