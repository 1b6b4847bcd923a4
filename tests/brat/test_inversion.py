"""Textual inversion on tiny random pipelines of six families: what must not move does not, what must learn does, the loss is that of diffusers' own
script, files load in plain diffusers, a killed run continues as if nothing had happened; and each checker fails when a fault is put in."""
import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from tokenstudy import core
from tokenstudy import brat as backbones, brat as inversion
from tokenstudy.brat.concepts import Concept, load, load_concept, with_textual_inversion
from tokenstudy.brat.inversion import Options, Trainer, invert
from tokenstudy.brat import inversion as inversion_
from tokenstudy.brat import pipelines

FAMILIES = ("sd", "sdxl", "pixart", "sd3", "flux", "sana")
SMALL = dict(num_inference_steps=3, output_type="pt")


def pictures(count=3):
    g = torch.Generator().manual_seed(5)
    return [torch.rand(3, 40, 36, generator=g) for _ in range(count)]


def pipeline(family="sd", **kw): return backbones.random_pipeline(family, **kw)


def learn(pipe, **kw):
    "A concept from three pictures in a few steps of two."
    return invert(pipe, pictures(), "<x>", "cat", **dict(dict(steps=2, batch_size=2, size=32, progress=False), **kw))


def seeded(seed=0): return torch.Generator().manual_seed(seed)


def picture(pipe, concept=None, prompt="a photo of <x>", **kw):
    "A picture as a tensor, through a concept or by the pipeline alone."
    kw = SMALL | dict(generator=seeded()) | kw
    if concept is not None: return torch.as_tensor(concept.generate(pipe, prompt, **kw))
    bb = backbones.backbone(pipe, 32)
    return torch.as_tensor(pipe(prompt, **dict(height=32, width=32) | bb.call_options | kw).images)


def whole_state(pipe):
    "Everything of a pipeline that an inversion could leave changed. (transformers hooks its encoders at their first call and keeps that: call them.)"
    with torch.no_grad(): backbones.backbone(pipe, 32).condition(["a photo"])
    parts = {k: v for k, v in vars(pipe).items() if isinstance(v, nn.Module)}
    return dict(
        weights={f"{k}.{n}": t.clone() for k, part in parts.items() for n, t in part.state_dict().items()},
        flags={f"{k}.{n}": p.requires_grad for k, part in parts.items() for n, p in part.named_parameters()},
        modes={f"{k}.{n}": m.training for k, part in parts.items() for n, m in part.named_modules()},
        classes={f"{k}.{n}": type(m) for k, part in parts.items() for n, m in part.named_modules()},
        hooks={f"{k}.{n}": (len(m._forward_hooks), len(m._forward_pre_hooks)) for k, part in parts.items() for n, m in part.named_modules()},
        others={k: v for k, v in vars(pipe).items() if not isinstance(v, nn.Module)},
        words={k: v.get_vocab() for k, v in vars(pipe).items() if hasattr(v, "get_vocab")},
        times=copy.deepcopy(vars(pipe.scheduler).get("timesteps")))


def changes(before, after):
    "The names of what differs between two states."
    found = [name for name in before["weights"].keys() | after["weights"].keys()
             if name not in before["weights"] or name not in after["weights"] or not torch.equal(before["weights"][name], after["weights"][name])]
    if (before["times"] is None) != (after["times"] is None) or before["times"] is not None and not torch.equal(before["times"], after["times"]): found.append("times")
    return found + [key for key in ("flags", "modes", "classes", "hooks", "others", "words") if before[key] != after[key]]


# --- nothing moves but the rows -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_pipeline_is_left_as_it_was(family):
    pipe = pipeline(family)
    pipe.text_encoder.train()
    next(pipe.vae.parameters()).requires_grad_(False)
    before = whole_state(pipe)
    concept = learn(pipe, gradient_checkpointing=True, weight_decay=.1, validation_prompts=["a <x>"], validation_every=2, validation_options=dict(num_inference_steps=2))
    assert changes(before, whole_state(pipe)) == []
    assert all(p.grad is None for part in vars(pipe).values() if isinstance(part, nn.Module) for p in part.parameters())
    assert concept.family == family and list(concept.embeddings) == list(backbones.backbone(pipe, 32).encoders)
    assert len(concept.history) == 2 and len(concept.validation) == 1 and all(rows.dtype == torch.float32 for rows in concept.embeddings.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_pipeline_is_left_as_it_was_after_an_error(family, monkeypatch):
    pipe = pipeline(family)
    before = whole_state(pipe)
    def fail(self, batch): raise RuntimeError("in the middle")
    monkeypatch.setattr(Trainer, "loss", fail)
    with pytest.raises(RuntimeError, match="in the middle"): learn(pipe)
    monkeypatch.setattr(backbones.Backbone, "encode", fail)
    with pytest.raises(RuntimeError, match="in the middle"): learn(pipe)
    assert changes(before, whole_state(pipe)) == []


def test_apply_keeps_old_rows_bit_for_bit():
    for family in FAMILIES:
        pipe = pipeline(family)
        before, concept = whole_state(pipe), learn(pipe)
        concept.apply(pipe)
        for slot, (tokenizer, encoder) in backbones.backbone(pipe, 32).encoders.items():
            table = encoder.get_input_embeddings().weight
            ids = tokenizer.convert_tokens_to_ids(concept.tokens)
            assert torch.equal(table[ids], concept.embeddings[slot])
            [old] = [t for n, t in before["weights"].items() if n.startswith(f"{slot}.") and t.shape[1:] == table.shape[1:] and n.endswith(("token_embedding.weight", "shared.weight", "embed_tokens.weight"))][:1]
            assert torch.equal(table[:min(ids)], old[:min(ids)])
            assert len(table) >= len(old)


class WholeTable:
    "Textual inversion as it is often written, our oracle: the table itself is the parameter, the pictures are encoded in each step."
    def __init__(self, pipe, trainer, weight_decay=0., restore=True):
        from diffusers import DDPMScheduler
        self.pipe, self.trainer, self.restore = copy.copy(pipe), trainer, restore
        self.pipe.tokenizer, self.pipe.text_encoder = copy.deepcopy(pipe.tokenizer), copy.deepcopy(pipe.text_encoder)
        for part in (pipe.unet, pipe.vae, self.pipe.text_encoder): part.requires_grad_(False)
        self.pipe.tokenizer.add_tokens(trainer.names)
        self.pipe.text_encoder.resize_token_embeddings(len(self.pipe.tokenizer), mean_resizing=False)
        self.ids = self.pipe.tokenizer.convert_tokens_to_ids(trainer.names)
        self.table = self.pipe.text_encoder.get_input_embeddings().weight.requires_grad_()
        with torch.no_grad(): self.table[self.ids] = trainer.rows["text_encoder"].detach()
        self.start = self.table.detach().clone()
        self.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
        self.optimiser = torch.optim.AdamW([self.table], lr=trainer.options.lr, weight_decay=weight_decay)

    def loss(self, batch):
        law = self.pipe.vae.encode(self.trainer.pictures[batch.pictures]).latent_dist
        latents = (law.mean + law.std * batch.latent_noise) * self.pipe.vae.config.scaling_factor
        noisy = self.scheduler.add_noise(latents, batch.noise, batch.levels)
        texts = [t.replace("{}", self.trainer.options.join.join(self.trainer.names)) for t in batch.templates]
        ids = self.pipe.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        guess = self.pipe.unet(noisy, batch.levels, self.pipe.text_encoder(ids)[0]).sample
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, batch.noise, batch.levels) if velocity else batch.noise
        return F.mse_loss(guess, target)

    def step(self, batch):
        loss = self.loss(batch)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        others = torch.ones(len(self.table), dtype=torch.bool)
        others[self.ids] = False
        if self.restore:
            with torch.no_grad(): self.table[others] = self.start[others]
        return loss.detach(), bool((self.table[others] == self.start[others]).all())


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_loss_and_steps_are_those_of_the_diffusers_script(kind):
    pipe = pipeline(prediction_type=kind)
    with Trainer(pipe, pictures(), "<x>", "cat", Options(num_bonus=0, orthogonality=0, batch_size=3)) as trainer:
        batches = []
        trainer.draw, drawn = (lambda: batches[-1]), trainer.draw
        oracle = WholeTable(pipeline(prediction_type=kind), trainer)
        for _ in range(3):
            batches.append(drawn())
            theirs, kept = oracle.step(batches[-1])
            ours = trainer.step()
            assert kept and abs(ours["loss"] - float(theirs)) < 1e-6
            assert torch.allclose(trainer.rows["text_encoder"], oracle.table[oracle.ids], atol=1e-6)


def test_loss_oracle_notices_a_wrong_target_and_a_table_that_drifts():
    pipe = pipeline(prediction_type="v_prediction")
    with Trainer(pipe, pictures(), "<x>", "cat", Options(num_bonus=0)) as trainer:
        batch = trainer.draw()
        fresh = lambda **kw: WholeTable(pipeline(prediction_type="v_prediction"), trainer, **kw)
        assert not fresh(weight_decay=1e-2, restore=False).step(batch)[1] and fresh(weight_decay=1e-2).step(batch)[1]
        right = float(fresh().loss(batch).detach())
        trainer.bb.levels.kind = "epsilon"
        assert abs(float(trainer.loss(batch).detach()) - right) > 1e-3


def test_flow_matching_loss_by_hand():
    pipe = pipeline("sd3")
    with Trainer(pipe, pictures(), "<x>", "cat", Options(num_bonus=0, batch_size=2, size=32)) as trainer, torch.no_grad():
        batch, config = trainer.draw(), pipe.vae.config
        u = (batch.levels + 1) / 1000
        sigma = (3 * u / (1 + 2 * u)).view(-1, 1, 1, 1)
        law = pipe.vae.encode(trainer.pictures[batch.pictures]).latent_dist
        x = (law.mean + law.std * batch.latent_noise - config.shift_factor) * config.scaling_factor
        texts = [t.replace("{}", "<x>") for t in batch.templates]
        states, _, pooled, _ = trainer.bb.pipeline.encode_prompt(texts, texts, texts, do_classifier_free_guidance=False)
        guess = pipe.transformer((1 - sigma) * x + sigma * batch.noise, states, pooled, sigma.flatten() * 1000).sample
        assert abs(float(trainer.loss(batch) - F.mse_loss(guess, batch.noise - x))) < 1e-5


# --- every token learns ---------------------------------------------------------------------------------------------------------------------------

def reached(trainer):
    "Slot → which tokens' ids the encoder saw in one loss, and which rows got a gradient."
    seen, hooks = {slot: set() for slot in trainer.rows}, []
    for slot, (_, encoder) in trainer.bb.encoders.items():
        for part in encoder.modules():
            if isinstance(part, backbones.LearnedEmbedding):
                hooks.append(part.register_forward_pre_hook(lambda m, args, slot=slot: seen[slot].update(args[0].flatten().tolist())))
    trainer.loss(trainer.draw()).backward()
    for hook in hooks: hook.remove()
    names = {slot: getattr(trainer.bb.pipeline, slot.replace("text_encoder", "tokenizer")).convert_tokens_to_ids(trainer.names) for slot in trainer.rows}
    return {slot: ([i in seen[slot] for i in names[slot]],
                   [rows.grad is not None and bool(row.abs().max() > 0) for row in (rows.grad if rows.grad is not None else rows)])
            for slot, rows in trainer.rows.items()}


def everything_reached(found): return all(all(ids) and all(grads) for ids, grads in found.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [dict(num_bonus=3), dict(num_bonus=1, join=" "), dict(strategy="negative")], ids=["triple", "space", "negative"])
def test_every_token_reaches_every_encoder_and_gets_a_gradient(family, options):
    with Trainer(pipeline(family), pictures(), "<x>", "cat", Options(size=32, batch_size=2, **options)) as trainer:
        assert everything_reached(reached(trainer)) and len(trainer.rows) == dict(sdxl=2, sd3=3, flux=2).get(family, 1)


def test_block_tokens_learn_where_they_stand():
    with Trainer(pipeline(), pictures(), "<x>", "cat", Options(strategy="blocks", blocks=4, batch_size=2)) as trainer:
        batch = dataclasses.replace(trainer.draw(), levels=torch.tensor([999, 300]))
        assert [text.split("<")[1] for text in trainer.prompts(batch)] == ["x>", "x-block-2>"]
        trainer.loss(batch).backward()
        assert (trainer.rows["text_encoder"].grad.abs().amax(1) > 0).tolist() == [True, False, True, False]


def test_reach_checker_notices_a_dropped_encoder_and_a_join_that_is_not_expanded(monkeypatch):
    with Trainer(pipeline("sdxl"), pictures(), "<x>", "cat", Options(batch_size=2)) as trainer:
        assert everything_reached(reached(trainer))
        bare = trainer.bb.encoders["text_encoder_2"][1]
        bare.get_input_embeddings()._rows[0] = trainer.rows["text_encoder_2"].detach()
        trainer.rows["text_encoder_2"].grad = None
        assert not everything_reached(reached(trainer))
    monkeypatch.setattr(Trainer, "prompts", lambda self, batch: [t.replace("{}", self.names[0]) for t in batch.templates])
    with Trainer(pipeline(), pictures(), "<x>", "cat", Options(batch_size=2)) as trainer: assert not everything_reached(reached(trainer))


def test_equal_sentences_are_encoded_once_and_nothing_changes_by_it(monkeypatch):
    with Trainer(pipeline(), pictures(), "<x>", "cat", Options(batch_size=4, templates=("a {}", "the {}"))) as trainer, torch.no_grad():
        counts, condition = [], trainer.bb.condition
        monkeypatch.setattr(trainer.bb, "condition", lambda prompts: (counts.append(len(prompts)), condition(prompts))[1])
        batch = trainer.draw()
        once = trainer.loss(batch)
        trainer._condition = condition
        assert counts == [2] and torch.allclose(once, trainer.loss(batch), atol=1e-6)


def test_the_denoiser_asks_for_no_gradient_before_it_sees_text():
    pipe, seen = pipeline(), {}
    with Trainer(pipe, pictures(), "<x>", "cat", Options(batch_size=2)) as trainer:
        for name, part in dict(before=pipe.unet.down_blocks[0], after=pipe.unet.mid_block).items():
            part.register_forward_hook(lambda m, args, out, name=name: seen.update({name: (out[0] if isinstance(out, tuple) else out).requires_grad}))
        trainer.loss(trainer.draw())
        optimised = [p for group in trainer.optimiser.param_groups for p in group["params"]]
    assert seen == dict(before=False, after=True) and [p.shape for p in optimised] == [(2, 16)]


# --- the penalty ----------------------------------------------------------------------------------------------------------------------------------

SIZES = st.tuples(st.integers(2, 5), st.integers(2, 9), st.integers(0, 10**6))

@given(SIZES, st.floats(.01, 100), st.floats(.01, 100))
def test_cos_penalty_laws(sizes, first, others):
    n, d, seed = sizes
    rows = torch.randn(n, d, generator=seeded(seed)) + .01
    value = float(inversion.cos_penalty(rows))
    scaled = torch.cat([rows[:1] * first, rows[1:] * -others])
    assert -1e-6 <= value <= n * (n - 1) / 2 + 1e-4
    assert abs(float(inversion.cos_penalty(scaled)) - value) < 1e-4 and abs(float(inversion.cos_penalty(rows.flip(0))) - value) < 1e-4
    assert abs(float(inversion.cos_penalty(rows[:1].repeat(n, 1))) - n * (n - 1) / 2) < 1e-4
    q = torch.linalg.qr(torch.randn(d, d, generator=seeded(seed)))[0][:n]
    assert abs(float(inversion.cos_penalty(q * first))) < 1e-6 and float(inversion.cos_penalty(rows[:1])) == 0
    by_hand = sum(float(torch.cosine_similarity(rows[i], rows[j], 0))**2 for i in range(n) for j in range(i))
    assert abs(value - by_hand) < 1e-4


def penalty_gradient(jitter):
    "The greatest entry of the penalty's gradient at the start, relative to what a right angle's slope would be."
    with Trainer(pipeline(), pictures(), "<x>", "cat", Options(num_bonus=1, orthogonality=1., jitter=jitter)) as trainer:
        rows = trainer.rows["text_encoder"]
        trainer._penalty().backward()
        return float(rows.grad.abs().max() * rows.detach().norm(dim=1).mean())


def test_penalty_has_no_gradient_at_equal_rows_and_one_with_jitter():
    assert penalty_gradient(0.) < 1e-6 < 1e-3 < penalty_gradient(1e-3)


def test_penalty_separates_the_tokens_and_lambda_zero_does_not_see_them():
    "A penalty much larger than the loss brings the cosine to 0; with λ = 0 the loss alone decides."
    pipe = pipeline()
    strong, none = (learn(pipe, steps=60, orthogonality=w).history for w in (100., 0.))
    assert abs(strong[-1]["cos"]) < .05 and strong[0]["cos"] > .5 and abs(none[-1]["cos"]) > abs(strong[-1]["cos"])
    assert learn(pipe, steps=1, num_bonus=0).history[0]["cos"] is None


def test_only_bonus_tokens_get_the_jitter():
    pipe = pipeline()
    word = pipe.text_encoder.get_input_embeddings().weight[backbones.word_id(pipe.tokenizer, "cat")]
    with Trainer(pipe, pictures(), "<x>", "cat", Options(num_bonus=2, jitter=1e-3)) as trainer:
        away = (trainer.rows["text_encoder"] - word).abs().amax(1)
    assert away[0] == 0 and (away[1:] > 1e-4).all() and (away[1:] < 1e-2).all()
    with Trainer(pipe, pictures(), "<x>", "cat", Options(strategy="negative")) as trainer:
        assert torch.equal(trainer.rows["text_encoder"][1], -word)


# --- options --------------------------------------------------------------------------------------------------------------------------------------

def test_fixed_norm_learns_directions_only():
    pipe = pipeline("sdxl")
    concept = learn(pipe, steps=4, fixed_norm=True, lr=.05)
    for slot, rows in concept.embeddings.items():
        norm = getattr(pipe, slot).get_input_embeddings().weight.norm(dim=1).mean()
        assert torch.allclose(rows.norm(dim=1), norm, rtol=1e-5) and rows[0] @ rows[1] < .999 * norm**2
    free = learn(pipe, steps=4, lr=.05)
    assert max(rows.norm(dim=1).max() for rows in free.embeddings.values()) > 1.5 * norm


def test_schedules_and_clip():
    pipe = pipeline()
    with Trainer(pipe, pictures(), "<x>", "cat", Options(lr=.1, lr_schedule="cosine", warmup=2, steps=6, batch_size=1)) as trainer:
        rates = [(trainer.step(), trainer.optimiser.param_groups[0]["lr"])[1] for _ in range(6)]
    assert rates[0] == 0 and rates[2] == .1 and rates[3] > rates[4] > rates[5] > 0
    with pytest.raises(ValueError, match="lr_schedule is 'odd'"): learn(pipe, lr_schedule="odd")
    assert learn(pipe, clip=1e-3).history[0]["loss"] == learn(pipe).history[0]["loss"]


def test_accumulated_batches_are_averaged():
    pipe = pipeline()
    with Trainer(pipe, pictures(), "<x>", "cat", Options(batch_size=2, accumulation=3, orthogonality=0)) as trainer:
        drawn, draw = [], trainer.draw
        trainer.draw = lambda: (drawn.append(draw()), drawn[-1])[1]
        rows = trainer.rows["text_encoder"]
        start = rows.detach().clone()
        loss = trainer.step()["loss"]
        with torch.no_grad():
            rows.copy_(start)
            assert len(drawn) == 3 and abs(sum(float(trainer.loss(b)) for b in drawn) / 3 - loss) < 1e-6


def same(a, b, atol=0.):
    return all(torch.allclose(a.embeddings[slot], b.embeddings[slot], rtol=0, atol=atol) for slot in a.embeddings)


def test_options_that_must_not_change_what_is_learned():
    for family in ("sd", "flux"):
        plain = learn(pipeline(family), flip=True)
        assert same(plain, learn(pipeline(family), flip=True))
        assert same(plain, learn(pipeline(family), flip=True, gradient_checkpointing=True), 1e-5)
        assert same(plain, learn(pipeline(family), flip=True, cache_latents=False), 1e-5)
        assert same(plain, learn(pipeline(family), flip=True, validation_prompts=["a <x>"], validation_every=1, validation_options=dict(num_inference_steps=2)))
        assert not same(plain, learn(pipeline(family), flip=True, seed=1), 1e-5)


def test_the_global_generator_is_not_used():
    torch.manual_seed(3)
    one = learn(pipeline())
    state = torch.get_rng_state()
    torch.rand(5)
    assert same(one, learn(pipeline()))
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_rows_in_float32(precision):
    concept = learn(pipeline(), mixed_precision=precision)
    assert concept.embeddings["text_encoder"].dtype == torch.float32
    assert abs(concept.history[0]["loss"] - learn(pipeline()).history[0]["loss"]) < .05


@pytest.mark.parametrize("family", ["sd", "sana"])
def test_pipelines_in_half_precision(family):
    pipe = pipeline(family).to(torch.bfloat16)
    before, concept = whole_state(pipe), learn(pipe)
    assert changes(before, whole_state(pipe)) == [] and concept.embeddings["text_encoder"].dtype == torch.float32
    assert picture(pipe, concept).isfinite().all() and picture(pipe, concept).shape == (1, 3, 32, 32)


def test_signature_shows_every_option():
    import inspect
    shown = inspect.signature(invert).parameters
    assert all(shown[field.name].default == field.default for field in dataclasses.fields(Options)) and "options" not in shown
    with pytest.raises(TypeError, match="unexpected keyword argument 'lern'"): invert(pipeline(), pictures(), lern=1)


# --- files ----------------------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def concepts(tmp_path_factory):
    "Family → a concept, and the folder that it is saved in."
    root = tmp_path_factory.mktemp("concepts")
    made = {family: learn(pipeline(family), num_bonus=1) for family in FAMILIES}
    return {family: (concept, concept.save(root/family)) for family, concept in made.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_concept_comes_back_bit_for_bit(family, concepts):
    concept, folder = concepts[family]
    again = load_concept(folder)
    assert all(torch.equal(again.embeddings[slot], rows) for slot, rows in concept.embeddings.items())
    assert dataclasses.replace(again, embeddings={}) == dataclasses.replace(concept, embeddings={})
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "x-bonus.safetensors", "x.safetensors"]
    one, two = pipeline(family), pipeline(family)
    assert load(two, folder).expand("a <x>") == "a <x>,<x-bonus>"
    assert torch.equal(picture(one, concept), picture(two, "" or load(two, folder)))


def test_diffusers_own_loader_gives_the_same_embeddings_and_picture(concepts):
    from safetensors.torch import load_file
    for family in ("sd", "sdxl", "flux"):
        concept, folder = concepts[family]
        theirs, ours = pipeline(family), pipeline(family)
        for token, name in zip(concept.tokens, ("x", "x-bonus")):
            if family == "sd": theirs.load_textual_inversion(str(folder), weight_name=f"{name}.safetensors")
            else:
                rows = load_file(folder/f"{name}.safetensors")
                for slot, key in dict(sdxl=dict(text_encoder="clip_l", text_encoder_2="clip_g"), flux=dict(text_encoder="clip_l", text_encoder_2="t5"))[family].items():
                    theirs.load_textual_inversion(rows[key], token=token, text_encoder=getattr(theirs, slot), tokenizer=getattr(theirs, slot.replace("text_encoder", "tokenizer")))
        for slot, rows in concept.embeddings.items():
            ids = getattr(theirs, slot.replace("text_encoder", "tokenizer")).convert_tokens_to_ids(concept.tokens)
            assert torch.equal(getattr(theirs, slot).get_input_embeddings().weight[ids], rows)
        assert torch.equal(picture(theirs, prompt="a photo of <x>,<x-bonus>"), picture(ours, concept))


def test_exported_file_is_a_multi_vector_for_diffusers(concepts, tmp_path):
    concept, _ = concepts["sd"]
    pipe = pipeline()
    pipe.load_textual_inversion(str(concept.export(tmp_path/"x.safetensors")))
    assert pipe.maybe_convert_prompt("a <x>", pipe.tokenizer) == "a <x> <x>_1"
    spaced = dataclasses.replace(concept, join=" ")
    assert torch.allclose(picture(pipe), picture(pipeline(), spaced))
    with pytest.raises(ValueError, match="strategy 'blocks'"): dataclasses.replace(concept, strategy="blocks").export(tmp_path/"y")
    assert not (tmp_path/"y").exists()


FRESH = """
    import sys, torch
    from diffusers import StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], local_files_only=True)
    for name in ("x", "x-bonus"): pipe.load_textual_inversion(sys.argv[2], weight_name=name + ".safetensors")
    pipe.set_progress_bar_config(disable=True)
    made = pipe("a photo of <x>,<x-bonus>", num_inference_steps=3, output_type="pt", height=32, width=32, generator=torch.Generator().manual_seed(0))
    torch.save(dict(picture=made.images, rows=pipe.text_encoder.get_input_embeddings().weight[-2:].detach()), sys.argv[3])
    assert "tokenstudy" not in sys.modules
"""


def test_a_fresh_process_with_plain_diffusers_draws_the_same_picture(concepts, tmp_path):
    concept, folder = concepts["sd"]
    pipe = pipeline()
    pipe.save_pretrained(tmp_path/"pipe")
    subprocess.run([sys.executable, "-c", textwrap.dedent(FRESH), tmp_path/"pipe", folder, tmp_path/"out.pt"], check=True, timeout=300, cwd=tmp_path)
    found = torch.load(tmp_path/"out.pt", weights_only=True)
    assert torch.equal(found["rows"], concept.embeddings["text_encoder"])
    assert torch.equal(found["picture"], picture(pipe, concept))
    assert not torch.equal(found["picture"], picture(pipeline(), prompt="a photo of"))


@pytest.mark.parametrize("family", ["pixart", "sd3", "sana", "sd"])
def test_a_loader_where_diffusers_has_none(family, concepts, tmp_path):
    concept, folder = concepts[family]
    pipe = pipeline(family)
    assert hasattr(pipe, "load_textual_inversion") == (family == "sd")
    able = with_textual_inversion(pipe)
    able.load_textual_inversion(str(folder))
    assert type(able).__name__ == type(pipe).__name__ and isinstance(able, type(pipe)) and with_textual_inversion(able) is able
    expected = picture(pipeline(family), concept)
    assert torch.equal(picture(able), expected) and torch.equal(picture(able, prompt=["a photo of <x>"]), expected)
    if family in ("pixart", "sana"): assert torch.equal(picture(able, clean_caption=True), expected)
    parts = [picture(able, part) for part in concept.split()]
    assert not torch.equal(parts[0], expected) and torch.equal(picture(able), expected)
    negative = picture(able, prompt="a dog", negative_prompt="<x>")
    assert torch.equal(negative, picture(able, prompt="a dog", negative_prompt="<x>,<x-bonus>")) and not torch.equal(negative, picture(able, prompt="a dog"))


def test_multi_vector_files_where_diffusers_has_no_loader(concepts, tmp_path):
    concept, _ = concepts["pixart"]
    able = with_textual_inversion(pipeline("pixart"))
    able.load_textual_inversion(str(concept.export(tmp_path/"x.safetensors")))
    assert torch.allclose(picture(able), picture(pipeline("pixart"), dataclasses.replace(concept, join=" ")))


def test_apply_is_idempotent_and_refuses_what_differs(concepts):
    concept, _ = concepts["sdxl"]
    pipe = pipeline("sdxl")
    for _ in range(2): concept.apply(pipe)
    assert len(pipe.tokenizer) == len(pipeline("sdxl").tokenizer) + 2
    state = whole_state(pipe)
    other = dataclasses.replace(concept, embeddings={slot: rows + (slot == "text_encoder_2") for slot, rows in concept.embeddings.items()})
    with pytest.raises(backbones.PlaceholderError, match="not in this pipeline as it was learned"): other.apply(pipe)
    wide = dataclasses.replace(concept, tokens=["<y>", "<z>"], placeholder="<y>", embeddings=concept.embeddings | dict(text_encoder_2=torch.zeros(2, 9)))
    with pytest.raises(ValueError, match="width 9, the CLIPTextModelWithProjection of this pipeline 16"): wide.apply(pipe)
    with pytest.raises(ValueError, match="also has a text_encoder_2"): concepts["sd"][0].apply(pipeline("sdxl"))
    assert changes(state, whole_state(pipe)) == []
    with pytest.raises(backbones.PlaceholderError, match="already known"): learn(pipe)


def test_damaged_files_are_named(concepts, tmp_path):
    concept, _ = concepts["sd"]
    folder = concept.save(tmp_path/"c")
    with pytest.raises(FileExistsError, match="already there"): concept.save(folder)
    file, manifest = folder/"x.safetensors", folder/"manifest.json"
    whole, text = file.read_bytes(), manifest.read_text()
    for damage in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:50], b""):
        file.write_bytes(damage)
        with pytest.raises(core.CorruptFileError, match="x.safetensors is damaged"): load_concept(folder)
    file.unlink()
    with pytest.raises(core.CorruptFileError, match="missing"): load_concept(folder)
    file.write_bytes(whole)
    for damage in (text[:-9], text.replace("concept 1", "concept 9"), text.replace('"tokens"', '"others"'), "[]", text.replace('"text_encoder": 16', '"text_encoder": 17')):
        manifest.write_text(damage)
        with pytest.raises(core.CorruptFileError): load_concept(folder)
    manifest.write_text(text.replace('"x.safetensors"', '"../../x.safetensors"'))
    assert load_concept(folder).tokens == concept.tokens
    manifest.unlink()
    with pytest.raises(FileNotFoundError, match="saved concept"): load_concept(folder)


# --- interruption ---------------------------------------------------------------------------------------------------------------------------------

RUN = dict(steps=6, batch_size=2, checkpoint_every=2, lr_schedule="cosine", weight_decay=.01, validation_prompts=["a <x>"], validation_every=2, flip=True, validation_options=dict(num_inference_steps=2))

KILLED = """
    import os, signal, sys
    from tokenstudy.brat import backbones, inversion
    sys.path.insert(0, sys.argv[3])
    from test_inversion import RUN, learn, pipeline
    def die(): os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "step":
        step = inversion.Trainer.step
        inversion.Trainer.step = lambda self: die() if self.done == 5 else step(self)
    else: # while a checkpoint is being written
        replace, count = os.replace, []
        def replacing(a, b):
            count.append(b)
            if sum("checkpoint" in str(name) for name in count) == 2: die()
            return replace(a, b)
        os.replace = replacing
    learn(pipeline(), checkpoint_dir=sys.argv[1], **RUN)
"""


def alike(one, two):
    "Whether two concepts are the same bit for bit, with their histories and validation pictures."
    pictures = [[(v["step"], v["prompt"], v["image"].tobytes()) for v in c.validation] for c in (one, two)]
    return same(one, two) and one.history == two.history and pictures[0] == pictures[1]


def test_kill_minus_nine_and_resume(tmp_path):
    from conftest import ROOT
    where = {how: tmp_path/how for how in ("step", "write")}
    running = {how: subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), where[how], how, ROOT/"tests"], cwd=ROOT,
                                     env={**os.environ, "PYTHONPATH": str(ROOT)}) for how in where}
    straight = learn(pipeline(), **RUN)
    for how, process in running.items():
        assert process.wait(300) == -signal.SIGKILL
        with Trainer(pipeline(), pictures(), "<x>", "cat", Options(steps=6, batch_size=2, lr_schedule="cosine", weight_decay=.01, flip=True, size=32)) as trainer:
            assert trainer.restore_checkpoint(where[how]) == dict(step=4, write=2)[how]
        assert alike(learn(pipeline(), checkpoint_dir=where[how], **RUN), straight)
        assert not [*where[how].glob(".*")]
        assert alike(learn(pipeline(), checkpoint_dir=where[how], **RUN), straight), "a finished run is only read"


@pytest.mark.parametrize("fault", ["rng", "exp_avg", "step"])
def test_resume_checker_notices_what_a_checkpoint_forgets(fault, tmp_path, monkeypatch):
    straight = learn(pipeline(), **RUN)
    def fail_later(self):
        if self.done == 4: raise KeyboardInterrupt
        return step(self)
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", fail_later)
    with pytest.raises(KeyboardInterrupt): learn(pipeline(), checkpoint_dir=tmp_path, **RUN)
    monkeypatch.undo()
    read = inversion_._read_state
    def forgetful(path):
        tensors, state = read(path)
        return {k: torch.Generator().manual_seed(0).get_state() if k == fault == "rng" else torch.zeros_like(t) if k.startswith(fault) else t for k, t in tensors.items()}, state
    monkeypatch.setattr(inversion, "_read_state", forgetful)
    assert not alike(learn(pipeline(), checkpoint_dir=tmp_path, **RUN), straight)


def test_checkpoints_of_something_else_and_damaged_ones(tmp_path):
    learn(pipeline(), checkpoint_dir=tmp_path)
    file = tmp_path/inversion.CHECKPOINT
    for change, word in ((dict(lr=.1), "lr was 0.005, now 0.1"), (dict(num_bonus=3), "num_bonus"), (dict(steps=3), "steps"), (dict(seed=1), "seed")):
        with pytest.raises(inversion.CheckpointError, match=word): learn(pipeline(), checkpoint_dir=tmp_path, **change)
    with pytest.raises(inversion.CheckpointError, match="model"): learn(pipeline(seed=1), checkpoint_dir=tmp_path)
    with pytest.raises(inversion.CheckpointError, match="pictures_sha256"):
        invert(pipeline(), pictures()[::-1], "<x>", "cat", steps=2, batch_size=2, size=32, checkpoint_dir=tmp_path)
    whole = file.read_bytes()
    for damage in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:100], whole.replace(b"0.005", b"0.006")):
        file.write_bytes(damage)
        with pytest.raises(core.CorruptFileError, match="delete it"): learn(pipeline(), checkpoint_dir=tmp_path)
    assert len(learn(pipeline(), checkpoint_dir=tmp_path, resume=False).history) == 2


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    loss = Trainer.loss
    monkeypatch.setattr(Trainer, "loss", lambda self, batch: loss(self, batch) * (float("nan") if self.done == 3 else 1))
    pipe = pipeline()
    before = whole_state(pipe)
    with pytest.raises(inversion.DivergedError, match=r"step 4 of 9: loss nan.*learning rate 0.005.*last good checkpoint is"):
        learn(pipe, steps=9, checkpoint_dir=tmp_path, checkpoint_every=1)
    tensors, state = inversion_._read_state(tmp_path/inversion.CHECKPOINT)
    assert state["step"] == 3 and tensors["rows.text_encoder"].isfinite().all() and changes(before, whole_state(pipe)) == []
    with pytest.raises(inversion.DivergedError, match="step 4"): learn(pipe, steps=9)
    monkeypatch.setattr(Trainer, "loss", lambda self, batch: loss(self, batch) * 0 + self.rows["text_encoder"].sum().sqrt() * 0)
    with pytest.raises(inversion.DivergedError): learn(pipe, steps=9) # a finite loss whose gradient is not


# --- drawing --------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_switch_the_prompt_by_the_time(family):
    pipe = pipeline(family)
    concept = learn(pipe, strategy="blocks", blocks=3, lr=.5)
    concept.apply(pipe)
    bb, heard = backbones.backbone(pipe, 32), []
    denoiser = getattr(pipe, bb.denoiser_slot)
    hook = denoiser.register_forward_hook(lambda m, args, kw, out: heard.append((float(torch.as_tensor(kw.get("timestep", args[1] if args[1:] else 0)).flatten()[-1]), kw)), with_kwargs=True)
    prompts = ["a photo of <x>", "red <x>"]
    drawn = picture(pipe, concept, prompts, num_images_per_prompt=2, num_inference_steps=6, generator=[seeded(i) for i in range(4)])
    hook.remove()
    assert len(drawn) == 4 and not denoiser._forward_pre_hooks
    blocks = []
    for time, kw in heard:
        blocks.append(min(2, int((1000 - float(bb.unclock(torch.tensor(time)))) * 3 / 1000 + 1e-6)))
        with torch.no_grad(): expected = bb.condition([p.replace("<x>", concept.tokens[blocks[-1]]) for p in prompts])
        for key, value in expected.items():
            got = kw[key] if key in kw else kw["added_cond_kwargs"][key]
            assert torch.allclose(got[-4:].float(), value.repeat_interleave(2, 0).float(), atol=1e-5)
    assert len(set(blocks)) > 1 and blocks[0] == 0 and blocks == sorted(blocks)


def test_one_block_is_plain_inversion_and_guidance_keeps_its_negative():
    pipe = pipeline()
    concept = learn(pipe, strategy="blocks", blocks=3)
    alone = dataclasses.replace(concept, strategy="tokens", tokens=["<x>"], embeddings={k: v[:1] for k, v in concept.embeddings.items()})
    same_rows = dataclasses.replace(concept, embeddings={k: v[:1].repeat(3, 1) for k, v in concept.embeddings.items()})
    for kw in (dict(), dict(negative_prompt="a dog"), dict(guidance_scale=1.)):
        assert torch.allclose(picture(pipeline(), same_rows, **kw), picture(pipeline(), alone, **kw), atol=1e-5)
    flux, made = pipeline("flux"), learn(pipeline("flux"), strategy="blocks", blocks=2)
    twins = dataclasses.replace(made, embeddings={k: v[:1].repeat(2, 1) for k, v in made.embeddings.items()})
    first = dataclasses.replace(made, strategy="tokens", tokens=["<x>"], embeddings={k: v[:1] for k, v in made.embeddings.items()})
    kw = dict(negative_prompt="a dog", true_cfg_scale=3.)
    assert torch.allclose(picture(flux, twins, **kw), picture(pipeline("flux"), first, **kw), atol=1e-4)


def test_a_negative_token_joins_the_negative_prompt():
    for family in ("sd", "pixart", "flux"):
        pipe = pipeline(family)
        concept = learn(pipe, strategy="negative").apply(pipe) and learn(pipeline(family), strategy="negative")
        more = dict(true_cfg_scale=5.) if family == "flux" else {}
        assert torch.equal(picture(pipe, concept), picture(pipe, prompt=["a photo of <x>"], negative_prompt=["<x-negative>"], **more))
        assert torch.equal(picture(pipe, concept, negative_prompt="red"), picture(pipe, prompt=["a photo of <x>"], negative_prompt=["red, <x-negative>"], **more))
        assert picture(pipe, concept, ["<x>", "red <x>"], generator=[seeded(), seeded()]).shape[0] == 2


def test_negative_loss_extrapolates():
    with Trainer(pipeline(), pictures(), "<x>", "cat", Options(strategy="negative", gamma=3., batch_size=2)) as trainer, torch.no_grad():
        batch = trainer.draw()
        noisy, target = trainer.bb.levels.mix(trainer._latents(batch), batch.noise, batch.levels)
        a, b = (trainer.bb.predict(noisy, batch.levels, trainer.bb.condition(p)) for p in (trainer.prompts(batch), ["<x-negative>"] * 2))
        assert torch.allclose(trainer.loss(batch), F.mse_loss(b + 3 * (a - b), target), atol=1e-5)


WORDS = st.lists(st.sampled_from(["<x>", "<x-bonus>", "<x-bonus-2>", "a", "photo", ",", "<x>,<x-bonus>,<x-bonus-2>", "<y>"]), max_size=6)

@given(WORDS, st.sampled_from([",", " ", ", "]))
def test_expansion_is_idempotent_and_leaves_the_rest(words, join):
    names = ["<x>", "<x-bonus>", "<x-bonus-2>"]
    concept = Concept("<x>", names, join, "tokens", {}, "sd", {})
    text = "|".join(words)
    once = concept.expand(text)
    assert concept.expand(once) == once and concept.expand([text, ""]) == [once, ""]
    if join != ",": words = [w for w in words if w != "<x>,<x-bonus>,<x-bonus-2>"]
    text = "|".join(words)
    assert concept.expand(text) == "|".join(join.join(names) if w == "<x>" else w for w in words)


# --- bad input ------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, why", [
    ("cat", "already known to the tokenizer \\(as 'cat</w>'\\)"), ("redcat", "splits into the known pieces .*use <redcat>"), ("sks", "splits into"), ("a cat", "a space.*<a-cat>"),
    ("<x>,<y>", "a comma"), ("", "is empty"), ("<{}>", "a brace"), ("<a\nb>", "a space"), (None, "is empty"), ("x", "already known")])
def test_names_that_cannot_be_one_token_are_refused(name, why):
    pipe = pipeline()
    before = whole_state(pipe)
    with pytest.raises(backbones.PlaceholderError, match=why): invert(pipe, pictures(), name, "cat")
    assert changes(before, whole_state(pipe)) == []


def test_names_that_collide_are_refused():
    pipe = pipeline()
    pipe.tokenizer.add_tokens(["<x-bonus>", "<dog>_1", "<z>"])
    for name, why in (("<x>", "'<x-bonus>' is already known"), ("<dog>", "already known"), ("<Z>", "already known to the tokenizer \\(as '<z>'\\)")):
        with pytest.raises(backbones.PlaceholderError, match=why): invert(pipe, pictures(), name, "cat")


@pytest.mark.parametrize("family, word, why", [
    ("sd", "redcat", "splits into 4 pieces: 'r'|splits into \\d pieces"), ("sd", "red cat", "splits into 2 pieces: 'red</w>', 'cat</w>'"), ("sd", "", "splits into 0 pieces"),
    ("sd", "é", "unknown|splits"), ("pixart", "zebra", "unknown to the tokenizer"), ("sana", "red cat", "splits into 2 pieces")])
def test_init_words_that_are_no_word_are_refused(family, word, why):
    with pytest.raises(ValueError, match=why): invert(pipeline(family), pictures(), "<x>", word, size=32)


@pytest.mark.parametrize("wrong", [
    dict(orthogonality=-.1), dict(orthogonality=float("nan")), dict(num_bonus=-1), dict(num_bonus=1.5), dict(strategy="other"), dict(blocks=0), dict(steps=0), dict(batch_size=0), dict(lr=0),
    dict(lr=float("inf")), dict(clip=-1.), dict(jitter=-1.), dict(join="x"), dict(join=""), dict(templates="objects"), dict(templates=("no place",)), dict(templates=()),
    dict(templates=("{} {}",)), dict(mixed_precision="int8"), dict(size=33), dict(seed=-1), dict(checkpoint_every=0), dict(accumulation=True), dict(weight_decay=-1.)],
    ids=lambda wrong: "-".join(map(str, *wrong.items())))
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="size is 33" if "size" in wrong else "template" if "templates" in wrong else f"{[*wrong][0]} is"): learn(pipeline(), **wrong)


def test_pictures_good_and_bad(tmp_path):
    size = 16
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"):
        assert inversion.read_pictures([Image.new(mode, (20, 10)), Image.new(mode, (9, 33))], size).shape == (2, 3, size, size)
    half = Image.new("RGB", (20, 20), "red")
    half.paste("blue", (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6 # a quarter turn
    half.save(tmp_path/"turned.jpg", exif=exif, quality=95)
    turned, upright = inversion.read_pictures([tmp_path/"turned.jpg", half], size)
    assert (turned - upright.rot90(-1, (1, 2))).abs().mean() < .1 and (turned - upright).abs().mean() > .3
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (inversion.read_pictures([clear, clear], 8) == 1).all()
    exact = torch.randint(256, (3, size, size), generator=seeded()) / 255
    assert torch.allclose(inversion.read_pictures([exact] * 2, size)[0], exact * 2 - 1, atol=1e-6)
    (tmp_path/"text.png").write_text("no picture")
    (tmp_path/"cut.png").write_bytes((half.save(tmp_path/"whole.png"), (tmp_path/"whole.png").read_bytes()[:60])[1])
    for bad in (tmp_path/"text.png", tmp_path/"cut.png", tmp_path/"none.png", str(tmp_path), 7, None, torch.zeros(1, 8, 8), torch.full((3, 8, 8), 2.), torch.full((3, 8, 8), float("nan")), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(inversion.PictureError, match="picture 2"): inversion.read_pictures([half, bad], size)
    with pytest.raises(inversion.PictureError, match="no pictures"): invert(pipeline(), [], "<x>", "cat")
    with pytest.warns(UserWarning, match="only one picture"): invert(pipeline(), [half], "<x>", "cat", steps=1, progress=False)


def test_pipelines_that_cannot_learn():
    with pytest.raises(backbones.UnsupportedPipelineError, match="object is not supported; supported are"): invert(object(), pictures())
    bare = pipeline()
    bare.text_encoder = None
    with pytest.raises(backbones.UnsupportedPipelineError, match="without text encoder"): learn(bare)
    odd = pipeline()
    odd.scheduler.register_to_config(prediction_type="odd")
    with pytest.raises(backbones.UnsupportedPipelineError, match="prediction_type 'odd'"): learn(odd)


@pytest.mark.parametrize("family, slot", [("sdxl", "text_encoder"), ("sd3", "text_encoder_3")])
def test_pipelines_loaded_without_one_of_their_encoders(family, slot):
    pipe = pipeline(family)
    setattr(pipe, slot, None)
    setattr(pipe, slot.replace("text_encoder", "tokenizer"), None)
    if family == "sdxl": pipe.unet = pipelines._unet(16, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 16)
    concept = learn(pipe)
    assert slot not in concept.embeddings and len(concept.embeddings) == dict(sdxl=1, sd3=2)[family]
    assert picture(pipe, concept).isfinite().all()


def test_nothing_is_half_written(tmp_path):
    for wrong in (dict(orthogonality=-1), dict(lr_schedule="odd")):
        with pytest.raises(ValueError): learn(pipeline(), checkpoint_dir=tmp_path/"c", **wrong)
    assert not (tmp_path/"c").exists()
    concept = learn(pipeline())
    broken = dataclasses.replace(concept, settings=dict(bad=object()))
    with pytest.raises(ValueError): broken.save(tmp_path/"d")
    assert [*tmp_path.iterdir()] == []


def test_old_clip_configurations_are_warned_about():
    pipe = pipeline("flux")
    with warnings.catch_warnings(): warnings.simplefilter("error", UserWarning); learn(pipe)
    pipe.text_encoder.config.eos_token_id = 2
    pipe.text_encoder.eos_token_id = 2
    with pytest.warns(UserWarning, match="eos_token_id 2"): learn(pipe)
