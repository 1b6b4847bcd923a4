"""Bases in half precision: all weights learn in float32, adapters stay beside the base, and what was learned is kept.

On pure bfloat16 weights a step of 1e-5 changes two weights in a hundred, so a training ends where it began."""
import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig

from tokenstudy import core, lm as lms, reasoning, tvm
from tokenstudy.cdpo import methods
from tokenstudy.cdpo.pairs import pairs_from_samples
from tokenstudy.cdpo.trainer import TokenWeightedDPOConfig, TokenWeightedDPOTrainer
from tokenstudy.lm import finetuning
from tokenstudy.tvm.training import train_verifier
from tokenstudy.tvm.verifier import score_responses

LORA = dict(r=4, target_modules="all-linear")


@pytest.fixture(scope="module")
def bases(): return {kind: reasoning.load_generator("cpu", kind) for kind in ("float32", "bfloat16")}


@pytest.fixture(scope="module")
def lessons(bases): return finetuning.lessons(bases["float32"], reasoning.arithmetic(16, "story", 3, seed=3))


@pytest.fixture(scope="module")
def drawn(bases): return reasoning.sample_trajectories(bases["float32"], reasoning.arithmetic(8, "story", 5, split="train", seed=1), 8)


def moved(base, trained):
    "The share of weights that are others than the base's."
    pairs = [(p.float(), q.float()) for p, q in zip(base.parameters(), trained.parameters(), strict=True)]
    return sum(int((p != q).sum()) for p, q in pairs)/sum(p.numel() for p, _ in pairs)


def loss_of(lm, lessons): return float(finetuning.response_loss(copy.deepcopy(lm.model).float(), lessons))


def test_half_precision_fine_tuning_moves_the_weights_and_follows_float32(bases, lessons):
    gains = {}
    for kind, base in bases.items():
        once = finetuning.fine_tune(base, lessons, 1, lr=1e-5, batch_size=8)
        assert once.model.dtype is torch.float32 and moved(base.model, once.model) > .9
        taught = finetuning.fine_tune(base, lessons, 2, lr=1e-4, batch_size=8)
        gains[kind] = [loss_of(base, lessons) - loss_of(m, lessons) for m in (once, taught)]
    assert gains["float32"][1] > .003
    assert np.allclose(gains["bfloat16"], gains["float32"], rtol=.1)


def test_half_precision_weights_that_learn_are_refused(bases, tmp_path):
    model = copy.deepcopy(bases["bfloat16"].model).requires_grad_(True)
    with pytest.raises(ValueError, match="parameters: .* are torch.bfloat16; a small step changes few"): core.train(model, lambda step: 0., 1, lr=1e-5)
    with pytest.raises(ValueError, match="model: .* tensors that learn are torch.bfloat16"):
        TokenWeightedDPOTrainer(model, args=TokenWeightedDPOConfig(str(tmp_path), use_cpu=True))


def test_half_precision_checker_sees_a_training_on_pure_bfloat16(bases, lessons, monkeypatch):
    "The fault that is looked for, put in: a tenth of the weights moves, and the loss falls by a fraction."
    base = bases["bfloat16"]
    monkeypatch.setattr(core.training, "_check_masters", lambda parameters: None)
    monkeypatch.setattr(finetuning, "learner", lambda model, peft_config: copy.deepcopy(model).train().requires_grad_(True))
    assert moved(base.model, finetuning.fine_tune(base, lessons, 1, lr=1e-5, batch_size=8).model) < .2


def test_half_precision_preference_follows_float32(bases, drawn):
    table = pairs_from_samples(drawn, 0)[0]
    assert len(table) >= 5
    gains = {}
    for kind, base in bases.items():
        known = methods.with_reference(base, table)
        made = methods.train("dpo", base, known, lr=1e-5, epochs=2, batch_size=8, use_cpu=True)
        assert made.lm.model.dtype is torch.float32 and moved(base.model, made.lm.model) > .9
        before, after = (methods.pair_logprobs(copy.deepcopy(m).float(), table) for m in (base.model, made.lm.model))
        gains[kind] = np.mean(np.subtract(*after)) - np.mean(np.subtract(*before))
        adapted = methods.train("dpo", base, methods.with_reference(base, table, adapter=True), lr=1e-3, epochs=1, batch_size=16, use_cpu=True, peft_config=LoraConfig(**LORA))
        assert finetuning.has_adapters(adapted.lm.model) == (kind == "bfloat16")
    assert gains["float32"] > .002 and gains["bfloat16"] == pytest.approx(gains["float32"], rel=.15)


def test_half_precision_reference_is_that_of_the_first_step(bases, drawn):
    "The margins of the first step are zero: reference and policy are computed in the same way."
    table = pairs_from_samples(drawn, 0)[0]
    for adapter in (False, True):
        known = methods.with_reference(bases["bfloat16"], table, adapter=adapter)
        made = methods.train("dpo", bases["bfloat16"], known, lr=0, epochs=1, batch_size=len(table), use_cpu=True, logging_steps=1, peft_config=LoraConfig(**LORA) if adapter else None)
        assert abs(made.log[0]["rewards/margins"]) < 1e-2, adapter
    other = methods.with_reference(bases["bfloat16"]._replace(model=copy.deepcopy(bases["bfloat16"].model).float()), table)
    assert max(abs(a - b) for r, s in zip(other, known) for key in methods.REFERENCE for a, b in zip(r[key], s[key])) > 1e-3


def test_half_precision_verifier_keeps_what_it_learned(bases, drawn, tmp_path):
    base = bases["bfloat16"]
    before = core.fingerprint(base.model)
    for name, config in dict(whole=None, adapter=LoraConfig(**LORA)).items():
        made = train_verifier(base, drawn, "tvm", epochs=2, lr=1e-5, batch_size=16, peft_config=config).model
        if config is None: assert made.dtype is torch.float32 and moved(base.model, made.lm) > .9
        else:
            assert finetuning.has_adapters(made.lm) and made.value_head.weight.dtype is torch.float32
            shared = {p.data_ptr() for p in base.model.parameters()}
            assert {p.data_ptr() for p in made.lm.parameters()} > shared
        tvm.save_verifier(made, tmp_path/name, base.tokenizer)
        again = tvm.load_verifier(tmp_path/name, device="cpu")
        assert again.dtype is torch.float32 and not finetuning.has_adapters(again)
        scores = [np.concatenate(score_responses(m, drawn[:6])) for m in (made, again)]
        assert np.abs(scores[0] - scores[1]).max() < (1e-5 if config is None else .02), name
    assert core.fingerprint(base.model) == before


def test_half_precision_adapters_share_one_base(bases, lessons):
    base = bases["bfloat16"]
    before = core.fingerprint(base.model)
    two = [finetuning.fine_tune(base, some, 1, lr=1e-3, lora=4) for some in (lessons[:8], lessons[8:])]
    own = [{p.data_ptr(): p.numel() for p in m.model.parameters()} for m in two]
    shared = own[0].keys() & own[1].keys()
    assert sum(own[0][k] for k in shared) == sum(p.numel() for p in base.model.parameters())
    assert sum(n for k, n in own[0].items() if k not in shared) < .3*sum(own[0].values())
    assert core.fingerprint(base.model) == before


def test_models_of_peft_count_positions_along_the_mask(bases, lessons):
    "A prompt that is padded on the left has the logits that it has alone."
    for base in bases.values():
        made = finetuning.with_adapters(finetuning.frozen_copy(base.model), LoraConfig(**LORA)).eval()
        ids, mask = lms.pad([[3, 1, 4, 1, 5, 9, 2], [2, 7]])
        with torch.no_grad():
            together = finetuning.forward(made, ids, mask).logits[1, -1].float()
            alone = finetuning.forward(made, ids[1:, -2:], mask[1:, -2:]).logits[0, -1].float()
        assert float((together - alone).abs().max()) < (1e-4 if base.model.dtype is torch.float32 else .2)


def test_half_precision_merged_copies_are_exact(bases):
    "Adapters added in float32 give what they give beside the base."
    model = finetuning.with_adapters(copy.deepcopy(bases["float32"].model), LoraConfig(**LORA, init_lora_weights=False)).eval()
    before, ids = core.fingerprint(model), torch.tensor([[3, 1, 4]])
    with torch.no_grad(): assert torch.allclose(finetuning.merged(model)(ids).logits, model(ids).logits, atol=1e-4)
    assert core.fingerprint(model) == before
