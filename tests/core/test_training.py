"core.training: a restart changes no bit, the loops that it replaced had the same bits, numbers that are none end in an error."
import math
import random
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tokenstudy import core
from tokenstudy.core import training
from tokenstudy.core.training import Training, cosine, restore_state, state_of, train, trapezoid


class Stop(Exception): "A kill between two steps."


def net(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(.3), torch.nn.ReLU(), torch.nn.Linear(8, 1))

def batch(step, size=12): return torch.randn(size, 4, generator=torch.Generator().manual_seed(step))

def mse(model, x): return (model(x) - x.sum(1, keepdim=True)).square().mean()

def numbers(model): return [p.detach().clone() for p in model.parameters()]

def equal(a, b): return len(a) == len(b) and all(map(torch.equal, a, b))


# ---- the same bits as a loop written out

def by_hand(rates, clip=1., parts=1):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), .01, betas=(.9, .98))
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        for part in batch(step).chunk(parts): (mse(model, part)/parts).backward()
        if clip: torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return numbers(model)

@pytest.mark.parametrize("parts, clip", [(1, 1.), (1, None), (3, .01)])
def test_same_bits_as_by_hand(parts, clip):
    rates = [.01*(1 + s % 3) for s in range(9)]
    model = net()
    def loss(step):
        for part in batch(step).chunk(parts): yield mse(model, part)/parts
    optimizer = torch.optim.AdamW(model.parameters(), .01, betas=(.9, .98))
    train(model, loss, 9, lr=rates.__getitem__, optimizer=optimizer, clip=clip)
    assert equal(numbers(model), by_hand(rates, clip, parts))


def test_gradients_that_the_loss_sets_itself():
    model = net()
    def loss(step):
        value = mse(model, batch(step))
        for p, g in zip(model.parameters(), torch.autograd.grad(value, list(model.parameters()))): p.grad = g
        return float(value.detach())
    optimizer = torch.optim.AdamW(model.parameters(), .01, betas=(.9, .98))
    done = train(model, loss, 5, lr=.02, optimizer=optimizer, clip=1.)
    assert equal(numbers(model), by_hand([.02]*5)) and math.isfinite(done.loss)


def test_one_cycle_of_torch():
    def one(ours):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), .01, weight_decay=.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, .01, 7)
        if ours: train(model, lambda step: mse(model, batch(step)), 7, lr=schedule, optimizer=optimizer)
        else:
            for step in range(7):
                optimizer.zero_grad()
                mse(model, batch(step)).backward()
                optimizer.step()
                schedule.step()
        return numbers(model)
    assert equal(one(True), one(False))


def test_rates_have_the_bits_of_the_formulas_that_they_replaced():
    for lr, steps, warmup, decay in ((2e-3, 1800, 50, 200), (1e-3, 560, 150, 160), (7e-4, 37, 2, 35), (.3, 5, 5, 0), (.1, 9, 1, 9)):
        generator = [lr*(min(1., (s + 1)/warmup)*min(1., (steps - s)/max(1, decay))) for s in range(steps)]
        base = [lr*(min(1., (s + 1)/warmup)*min(1., max(.02, (steps - s)/max(1, decay)))) for s in range(steps)]
        verifier = [lr*min((s + 1)/warmup, (steps - s)/max(1, steps - warmup), 1.) for s in range(steps)]
        draft = [lr*min(1., (s + 1)/max(1, .05*steps))*(.5 + .5*np.cos(np.pi*s/steps)) for s in range(steps)]
        made = dict(warmup=warmup, decay=decay)
        assert [trapezoid(lr, steps, **made)(s) for s in range(steps)] == generator
        assert [trapezoid(lr, steps, **made, floor=.02)(s) for s in range(steps)] == base
        assert [trapezoid(lr, steps, warmup=warmup, decay=steps - warmup)(s) for s in range(steps)] == verifier
        assert [cosine(lr, steps, warmup=.05*steps)(s) for s in range(steps)] == draft


def test_scaler_without_half_precision_changes_nothing():
    def one(**options):
        model = net()
        seen = []
        train(model, lambda step: mse(model, batch(step)), 5, lr=.02, clip=1., before_step=lambda step: seen.append(
            [p.grad.clone() for p in model.parameters()]), **options)
        return numbers(model), seen
    plain, scaled = one(), one(scaler=torch.amp.GradScaler("cpu", init_scale=2.**10))
    assert equal(plain[0], scaled[0]) and all(map(equal, plain[1], scaled[1]))
    assert equal(plain[0], one(scaler=torch.amp.GradScaler("cpu", enabled=False))[0])


# ---- restarts

def fit(folder=None, steps=8, stop=None, lr=None, **options):
    "A training in which everything that can be kept matters."
    model, rng, draws, own = net(), random.Random(3), np.random.default_rng(3), torch.Generator().manual_seed(3)
    average, log, counts = {k: p.detach().clone() for k, p in model.named_parameters()}, [], dict(tokens=0, by=[0, 0])
    def loss(step):
        x = batch(step) + .1*rng.random() + .1*draws.random() + .1*torch.rand((), generator=own)
        for part in x.chunk(2): yield mse(model, part)/2
    def after(step, loss):
        for k, p in model.named_parameters(): average[k].lerp_(p.detach(), .1)
        log.append(dict(step=step, loss=loss))
        counts["tokens"] += step
        counts["by"][step % 2] += 1
        if step + 1 == stop: raise Stop
    keep = dict(average=average, log=log, counts=counts, rng=rng, draws=draws, own=own)
    train(model, loss, steps, lr=lr or trapezoid(.05, steps, warmup=2, decay=3), clip=1., after_step=after, keep=keep,
          checkpoint=folder, **dict(save_steps=1, progress=False) | options)
    return numbers(model) + list(average.values()), log, counts

def interrupted(folder, stop, **options):
    with pytest.raises(Stop): fit(folder, stop=stop, **options)

def test_stopped_after_any_step_it_ends_with_the_same_bits(tmp_path):
    whole = fit()
    for stop in range(1, 9):
        interrupted(tmp_path/str(stop), stop)
        again = fit(tmp_path/str(stop))
        assert equal(whole[0], again[0]) and whole[1:] == again[1:]
    again = fit(tmp_path/"8")                                  # one that was finished is only read
    assert equal(whole[0], again[0]) and whole[1:] == again[1:]


def test_stopped_again_and_again(tmp_path):
    for stop in (2, 4, 5, 7): interrupted(tmp_path/"a", stop, save_steps=2)
    assert equal(fit()[0], fit(tmp_path/"a")[0])


@pytest.mark.parametrize("kind", ["scheduler", "scaler"])
def test_scheduler_and_scaler_go_on(tmp_path, kind):
    def one(folder=None, stop=None):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), .01, .9)
        lr = torch.optim.lr_scheduler.OneCycleLR(optimizer, .01, 7) if kind == "scheduler" else .01
        scaler = torch.amp.GradScaler("cpu", init_scale=64., growth_interval=2) if kind == "scaler" else None
        def after(step, loss):
            if step + 1 == stop: raise Stop
        train(model, lambda step: mse(model, batch(step)), 7, lr=lr, optimizer=optimizer, scaler=scaler, after_step=after,
              checkpoint=folder, save_steps=1)
        return numbers(model), scaler.get_scale() if scaler else (lr.state_dict(), optimizer.param_groups[0]["momentum"])
    with pytest.raises(Stop): one(tmp_path/"a", 4)
    (a, b), (c, d) = one(), one(tmp_path/"a")
    assert equal(a, c) and b == d


def test_a_longer_training_goes_on_where_the_rates_agree(tmp_path):
    interrupted(tmp_path/"a", 5)                               # of 8, of which the last 3 fall
    assert equal(fit(steps=12)[0], fit(tmp_path/"a", steps=12)[0])
    interrupted(tmp_path/"b", 8)
    with pytest.raises(core.CheckpointError, match="rates: .* there, .* now"): fit(tmp_path/"b", steps=12)
    constant = dict(lr=.01)
    fit(tmp_path/"c", steps=4, **constant)
    assert equal(fit(steps=8, **constant)[0], fit(tmp_path/"c", steps=8, **constant)[0])
    with pytest.raises(core.CheckpointError, match="has done 8 steps.* has 4"): fit(tmp_path/"c", steps=4, **constant)


def test_another_training_is_refused_and_resume_false_replaces_it(tmp_path):
    fit(tmp_path/"a", identity=dict(data="1a", lr=.05))
    with pytest.raises(core.CheckpointError, match='data: "1a" there, "2b" now'): fit(tmp_path/"a", identity=dict(data="2b", lr=.05))
    with pytest.raises(ValueError, match="lr: 0.05 there, absent now"): fit(tmp_path/"a", identity=dict(data="1a"))
    interrupted(tmp_path/"a", 3, identity=dict(data="2b"), resume=False)
    assert equal(fit()[0], fit(tmp_path/"a", identity=dict(data="2b"))[0])


def test_when_checkpoints_are_due(tmp_path, monkeypatch):
    at = []
    monkeypatch.setattr(training, "save_checkpoint", lambda folder, state, identity: at.append(state["step"]))
    def saves(**options):
        at.clear()
        fit(tmp_path/"a", **dict(save_steps=None, save_every=None) | options)
        return list(at)
    assert saves() == [8] and saves(save_last=False) == [] and saves(save_steps=3) == [3, 6, 8]
    assert saves(save_steps=8, save_last=False) == [] and saves(save_every=0.) == list(range(1, 9))
    assert saves(save_every=1e9) == [8] and saves(save_every=0., writes=False) == []


def test_damage_is_named_and_a_model_of_another_shape_is_refused(tmp_path):
    interrupted(tmp_path/"a", 3)
    [file] = (tmp_path/"a").glob("tensors-*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(core.CorruptFileError, match="resume=False"): fit(tmp_path/"a")
    x = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))]
    train(x, lambda step: x[0].sum() + x[1].sum(), 1, lr=.1, checkpoint=tmp_path/"b")
    with pytest.raises(core.CheckpointError, match="shape"):
        train(x[::-1], lambda step: x[0].sum() + x[1].sum(), 1, lr=.1, checkpoint=tmp_path/"b")
    with pytest.raises(core.CheckpointError, match="holds 2 of what this training has 1"):
        train(x[:1], lambda step: x[0].sum(), 1, lr=.1, checkpoint=tmp_path/"b")


# ---- what is no number

def test_losses_gradients_and_parameters_that_are_not_finite(tmp_path):
    x = torch.nn.Parameter(torch.tensor(1.))
    def bad(step): return x*(float("inf") if step == 2 else 1.)
    with pytest.raises(core.TrainingError, match="loss of step 3 is inf.*of 5 steps.*last good checkpoint"):
        train([x], bad, 5, lr=.1, checkpoint=tmp_path/"a", save_steps=1)
    assert torch.isfinite(x) and core.load_checkpoint(tmp_path/"a").state["step"] == 2
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x): return x.clone()
        @staticmethod
        def backward(ctx, g): return g*float("nan")
    with pytest.raises(core.TrainingError, match="norm of the gradient of step 1 is nan"):
        train([x], lambda step: Steep.apply(x), 1, lr=.1, clip=1.)
    assert torch.isfinite(x)
    with pytest.raises(core.TrainingError, match="parameter 0 .* not finite after step 1"):
        train([x], lambda step: Steep.apply(x), 1, lr=.1, checkpoint=tmp_path/"b")
    assert core.load_checkpoint(tmp_path/"b") is None          # ruined weights are not kept
    y = torch.nn.Parameter(torch.tensor(1.))
    with pytest.raises(core.TrainingError, match="not finite"): train([y], lambda step: y*1e38, 1, optimizer=torch.optim.SGD([y], 1.), lr=3e38)


@pytest.mark.parametrize("lr", [math.inf, -1., math.nan])
def test_rates_that_make_no_sense(lr):
    x = torch.nn.Parameter(torch.tensor(1.))
    with pytest.raises(ValueError, match="lr (is|= )"): train([x], lambda step: x, 1, lr=lr)
    with pytest.raises(ValueError, match="lr is .* at step 2"): train([x], lambda step: x, 3, lr=lambda step: lr if step else .1)


def test_half_precision_may_skip_a_step():
    x = torch.nn.Parameter(torch.tensor(1.))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.**127)
    train([x], lambda step: x*4, 3, lr=.1, scaler=scaler, clip=1.)
    assert scaler.get_scale() < 2.**127 and torch.isfinite(x)


def test_arguments():
    x = torch.nn.Parameter(torch.tensor(1.))
    for match, call in {"num_steps = -1": lambda: train([x], len, -1, lr=.1), "give a number": lambda: train([x], len, 1),
                        "requires_grad_": lambda: train([x.detach()], len, 1, lr=.1),
                        "yielded nothing": lambda: train([x], lambda s: iter(()), 1, lr=.1),
                        "no parameter got a gradient": lambda: train([x], lambda s: torch.ones((), requires_grad=True)*2, 1, lr=.1),
                        "whose state cannot be kept": lambda: state_of(dict(a=object()))}.items():
        with pytest.raises(ValueError, match=match): call()
    optimizer = torch.optim.SGD([x], .5)
    assert train([x], lambda s: x, 1, optimizer=optimizer).optimizer.param_groups[0]["lr"] == .5 and x.item() == .5
    one = Training([x], lambda s: x.square(), 3, lr=.1)
    assert one.step() == .25 and one.done == 1 and one.run().done == 3


def test_states_are_set_in_place():
    row, log, nested = torch.zeros(2), [1], dict(a=dict(b=[torch.zeros(1)]), gone=1)
    held = dict(row=row, log=log, nested=nested)
    saved = state_of(dict(row=torch.ones(2), log=[1, 2], nested=dict(a=dict(b=[torch.ones(1)]), new="x")))
    inner = nested["a"]["b"]
    restore_state(held, saved)
    assert held["row"] is row and row.tolist() == [1, 1] and log == [1, 2]
    assert nested == dict(a=dict(b=inner), new="x") and inner[0].tolist() == [1]


def test_reported_folders_that_cannot_hold_a_checkpoint_are_found_before_the_first_step(tmp_path, monkeypatch):
    x = torch.nn.Parameter(torch.zeros(1000))
    def train(folder, **options): core.train([x], lambda step: pytest.fail("worked in vain"), 3, lr=.1, checkpoint=folder, progress=False, **options)
    (tmp_path/"file").touch()
    with pytest.raises(core.TokenStudyError, match="file is not a folder"): train(tmp_path/"file"/"run")
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(place)._replace(free=11_000))
    with pytest.raises(core.TokenStudyError, match="0.012 MB are needed there"): train(tmp_path/"run")
    assert not (tmp_path/"run").exists()
    core.train([x], lambda step: x.square().sum(), 1, optimizer=torch.optim.SGD([x], lr=.1), checkpoint=tmp_path/"run", progress=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(place)._replace(free=0))
    core.train([x], lambda step: x.square().sum(), 1, lr=.1, checkpoint=tmp_path/"other", writes=False, progress=False)
