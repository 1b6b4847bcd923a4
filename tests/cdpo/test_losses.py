"The loss of critical tokens and its relatives, against hand-made formulas."
import math

import pytest
import torch
from hypothesis import given, strategies as st

from tokenstudy.cdpo.losses import sigmoid_loss, tdpo_loss


def test_preference_start_is_log_two_with_known_pushes():
    w = torch.rand(2, 3, generator=torch.manual_seed(0))
    w[0] = 1
    x = torch.zeros(2, 3, requires_grad=True)
    loss = sigmoid_loss(x, torch.zeros(2, 3), w, beta=.6)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert torch.allclose(x.grad, .3*torch.stack([-w[0], w[1]]), atol=1e-6)


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
