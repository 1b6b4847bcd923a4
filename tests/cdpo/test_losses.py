"The loss of critical tokens and its relatives, against hand-made formulas."
import math

import pytest
import torch
from hypothesis import given, strategies as st

from tokenstudy.cdpo.losses import log_ratios, per_position_loss, sigmoid_loss, tdpo_loss


def test_preference_start_is_log_two_with_known_pushes():
    w = torch.rand(2, 3, generator=torch.manual_seed(0))
    w[0] = 1
    x = torch.zeros(2, 3, requires_grad=True)
    loss = sigmoid_loss(x, torch.zeros(2, 3), w, beta=.6)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert torch.allclose(x.grad, .3*torch.stack([-w[0], w[1]]), atol=1e-6)


def test_reported_rectangles_of_other_shapes_are_named():
    x, wide, flat = torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(1, 3)
    for loss in (log_ratios, per_position_loss):
        for other in (wide, flat):
            for given in ((other, x, None), (x, other, None), (x, x, other)):
                shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in zip(("logps", "ref_logps", "weights"), (*given[:2], given[0] if given[2] is None else given[2])))
                with pytest.raises(ValueError) as said: loss(*given)
                assert str(said.value) == f"shapes differ: {shapes}"


@given(st.integers(1, 6), st.integers(0, 10**6), st.floats(.05, 3))
def test_preference_gradients_stand_in_the_ratio_of_weights(width, seed, beta):
    g = torch.Generator().manual_seed(seed)
    x, ref, w = (torch.randn(4, width, generator=g, dtype=torch.float64) for _ in range(3))
    w = w.abs().clamp(max=1)
    x.requires_grad_()
    sigmoid_loss(x, ref, w, beta=beta).sum().backward()
    m = beta*((w*(x - ref))[:2].sum(1) - (w*(x - ref))[2:].sum(1)).detach()
    push = beta*torch.sigmoid(-m)
    assert torch.allclose(x.grad, torch.cat([-w[:2]*push[:, None], w[2:]*push[:, None]]))


@pytest.mark.parametrize("second", (True, False))
def test_preference_tdpo_without_kl_is_dpo(second):
    logps, ref = torch.randn(2, 6, 5, generator=torch.manual_seed(1)).unbind(0)
    assert torch.allclose(tdpo_loss(logps, ref, torch.zeros(6), beta=.4, second=second), sigmoid_loss(logps, ref, beta=.4))
    assert not torch.allclose(tdpo_loss(logps, ref, torch.arange(6.), beta=.4, second=second), sigmoid_loss(logps, ref, beta=.4))


def minus_log_sigmoid(x): return math.log1p(math.exp(-x))


def test_preference_losses_by_hand():
    "Two pairs of three tokens, in numbers: every loss token by token, with and without weights."
    logps = torch.tensor([[-1., -2, -3], [-.5, 0, -1], [-2., -1, -4], [-1, -1, -.5]], dtype=torch.float64)
    ref = torch.tensor([[-1.5, -1, -3], [-1, -.5, -1], [-1., -3, -2], [-2, -1, -.25]], dtype=torch.float64)
    weights = torch.tensor([[1., .5, 1], [1, 1, 0], [.25, 1, .5], [0, 1, .5]], dtype=torch.float64)
    ratio = [[.5, -1, 0], [.5, .5, 0], [-1, 2, -2], [1, 0, -.25]]
    plain, weighed = [[sum(row) for row in rows] for rows in (ratio, [[w*r for w, r in zip(*rows)] for rows in zip(weights.tolist(), ratio)])]
    assert log_ratios(logps, ref).tolist() == plain and log_ratios(logps, ref, weights).tolist() == weighed
    for w, sums, rows in ((None, plain, ratio), (weights, weighed, (weights*(logps - ref)).tolist())):
        assert sigmoid_loss(logps, ref, w, beta=.7).tolist() == pytest.approx([minus_log_sigmoid(.7*(sums[b] - sums[b + 2])) for b in (0, 1)])
        places = [[minus_log_sigmoid(.7*(c - r)) for c, r in zip(rows[b], rows[b + 2])] for b in (0, 1)]
        assert per_position_loss(logps, ref, w, beta=.7).tolist() == pytest.approx([sum(row)/3 for row in places])
    kl = torch.tensor([.3, .1, 1., 2.], dtype=torch.float64)
    for second, alpha in ((True, .25), (True, 2.), (False, 1.)):
        margins = [plain[b] - plain[b + 2] - alpha*(kl[b + 2] - kl[b]).item() for b in (0, 1)]
        assert tdpo_loss(logps, ref, kl, beta=.7, alpha=alpha, second=second).tolist() == pytest.approx([minus_log_sigmoid(.7*m) for m in margins])
    assert torch.equal(tdpo_loss(logps, ref, kl, second=False, alpha=3.), tdpo_loss(logps, ref, kl, second=False))        # the first form has no alpha
    assert sigmoid_loss(logps, ref).tolist() == pytest.approx([minus_log_sigmoid(plain[b] - plain[b + 2]) for b in (0, 1)])
    assert torch.equal(per_position_loss(logps, ref), per_position_loss(logps, ref, beta=.1))
    assert torch.equal(tdpo_loss(logps, ref, kl), tdpo_loss(logps, ref, kl, beta=.1, alpha=.5, second=True))


@pytest.mark.parametrize("second", (True, False))
def test_preference_the_second_tdpo_learns_nothing_from_the_chosen_kl(second):
    kl = torch.tensor([.3, 1.], requires_grad=True)
    tdpo_loss(torch.zeros(2, 3), torch.zeros(2, 3), kl, beta=.5, alpha=.5, second=second).sum().backward()
    x = torch.tensor(-.5*(.5 if second else 1)*(1 - .3))
    push = .5*(.5 if second else 1)*torch.sigmoid(-x).item()
    assert kl.grad.tolist() == pytest.approx([0. if second else -push, push])


def test_preference_losses_are_those_of_each_pair_alone():
    logps, ref, w = torch.randn(3, 6, 4, generator=torch.manual_seed(2)).unbind(0)
    pick = lambda x, b: x[[b, b + 3]]
    for loss in (sigmoid_loss, per_position_loss):
        assert torch.allclose(loss(logps, ref, w.abs()), torch.cat([loss(pick(logps, b), pick(ref, b), pick(w.abs(), b)) for b in range(3)]))
    assert torch.allclose(tdpo_loss(logps, ref, w[:, 0]), torch.cat([tdpo_loss(pick(logps, b), pick(ref, b), pick(w[:, 0], b)) for b in range(3)]))
