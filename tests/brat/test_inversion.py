"""Textual inversion on tiny random pipelines of six families: what must not move does not, what must learn does, the loss is that of diffusers' own
script, a killed run continues as if nothing had happened; and each checker fails when a fault is put in."""
import copy
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from conftest import ROOT
from brat.toys import FAMILIES, pictures, pipeline, learn, picture, whole_state, changes, same, RUN

from tokenstudy import core
from tokenstudy.core import training
from tokenstudy.brat import pipelines
from tokenstudy.brat.pipelines import UnsupportedPipelineError
from tokenstudy.brat.tokens import LearnedEmbedding
from tokenstudy.brat.backbones import Backbone, backbone, pipeline_fingerprint
from tokenstudy.brat.pictures import read_pictures
from tokenstudy.brat.strategies import Options
from tokenstudy.brat.inversion import CHECKPOINT, DivergedError, Trainer, invert


@pytest.mark.parametrize("family", FAMILIES)
def test_pipeline_is_left_as_it_was(family):
    pipe = pipeline(family)
    pipe.text_encoder.train()
    next(pipe.vae.parameters()).requires_grad_(False)
    before = whole_state(pipe)
    concept = learn(pipe, gradient_checkpointing=True, weight_decay=.1, validation_prompts=["a <x>"], validation_every=2, validation_options=dict(num_inference_steps=2))
    assert changes(before, whole_state(pipe)) == []
    assert all(p.grad is None for part in vars(pipe).values() if isinstance(part, nn.Module) for p in part.parameters())
    assert concept.family == family and list(concept.embeddings) == list(backbone(pipe, 32).encoders)
    assert len(concept.history) == 2 and len(concept.validation) == 1 and all(rows.dtype == torch.float32 for rows in concept.embeddings.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_pipeline_is_left_as_it_was_after_an_error(family, monkeypatch):
    pipe = pipeline(family)
    before = whole_state(pipe)
    def fail(self, batch): raise RuntimeError("in the middle")
    monkeypatch.setattr(Trainer, "loss", fail)
    with pytest.raises(RuntimeError, match="in the middle"): learn(pipe)
    monkeypatch.setattr(Backbone, "encode", fail)
    with pytest.raises(RuntimeError, match="in the middle"): learn(pipe)
    assert changes(before, whole_state(pipe)) == []


def test_apply_keeps_old_rows_bit_for_bit():
    for family in FAMILIES:
        pipe = pipeline(family)
        before, concept = whole_state(pipe), learn(pipe)
        concept.apply(pipe)
        for slot, (tokenizer, encoder) in backbone(pipe, 32).encoders.items():
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
        spread = self.pipe.vae.encode(read_pictures(pictures(), self.trainer.bb.size)[batch.pictures]).latent_dist
        latents = (spread.mean + spread.std * batch.latent_noise) * self.pipe.vae.config.scaling_factor
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
        spread = pipe.vae.encode(read_pictures(pictures(), 32)[batch.pictures]).latent_dist
        x = (spread.mean + spread.std * batch.latent_noise - config.shift_factor) * config.scaling_factor
        texts = [t.replace("{}", "<x>") for t in batch.templates]
        states, _, pooled, _ = trainer.bb.pipeline.encode_prompt(texts, texts, texts, do_classifier_free_guidance=False)
        guess = pipe.transformer((1 - sigma) * x + sigma * batch.noise, states, pooled, sigma.flatten() * 1000).sample
        assert abs(float(trainer.loss(batch) - F.mse_loss(guess, batch.noise - x))) < 1e-5


def reached(trainer):
    "Slot → which tokens' ids the encoder saw in one loss, and which rows got a gradient."
    seen, hooks = {slot: set() for slot in trainer.rows}, []
    for slot, (_, encoder) in trainer.bb.encoders.items():
        for part in encoder.modules():
            if isinstance(part, LearnedEmbedding):
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


def test_fixed_norm_learns_directions_only():
    pipe = pipeline("sdxl")
    concept = learn(pipe, num_steps=4, fixed_norm=True, lr=.05)
    for slot, rows in concept.embeddings.items():
        norm = getattr(pipe, slot).get_input_embeddings().weight.norm(dim=1).mean()
        assert torch.allclose(rows.norm(dim=1), norm, rtol=1e-5) and rows[0] @ rows[1] < .999 * norm**2
    free = learn(pipe, num_steps=4, lr=.05)
    assert max(rows.norm(dim=1).max() for rows in free.embeddings.values()) > 1.5 * norm


def test_schedules_and_clip():
    pipe = pipeline()
    with Trainer(pipe, pictures(), "<x>", "cat", Options(lr=.1, lr_schedule="cosine", warmup=2, num_steps=6, batch_size=1)) as trainer:
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
KILLED = """
    import os, signal, sys
    from tokenstudy.brat.inversion import Trainer
    sys.path.insert(0, sys.argv[3])
    from brat.toys import RUN, learn, pipeline
    def die(): os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "step":
        step = Trainer.step
        Trainer.step = lambda self: die() if self.done == 5 else step(self)
    else: # while the checkpoint after step 4 is being written: the first one replaced an empty manifest, then that
        replace, count = os.replace, []
        def replacing(a, b):
            count.append(b)
            if sum("manifest.json" in str(name) for name in count) == 3: die()
            return replace(a, b)
        os.replace = replacing
    learn(pipeline(), output_dir=sys.argv[1], **RUN)
"""


def alike(one, two):
    "Whether two concepts are the same bit for bit, with their histories and validation pictures."
    pictures = [[(v["step"], v["prompt"], v["image"].tobytes()) for v in c.validation] for c in (one, two)]
    return same(one, two) and one.history == two.history and pictures[0] == pictures[1]


def test_kill_minus_nine_and_resume(tmp_path):
    where = {how: tmp_path/how for how in ("step", "write")}
    running = {how: subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), where[how], how, ROOT/"tests"], cwd=ROOT,
                                     env={**os.environ, "PYTHONPATH": str(ROOT)}) for how in where}
    straight = learn(pipeline(), **RUN)
    options = Options(num_steps=6, batch_size=2, lr_schedule="cosine", weight_decay=.01, flip=True, size=32)
    for how, process in running.items():
        assert process.wait(300) == -signal.SIGKILL
        with Trainer(pipeline(), pictures(), "<x>", "cat", options, output_dir=where[how]) as trainer:
            assert trainer.done == dict(step=4, write=2)[how]
        assert alike(learn(pipeline(), output_dir=where[how], **RUN), straight)
        assert not [*where[how].rglob("*.partial")]
        assert alike(learn(pipeline(), output_dir=where[how], **RUN), straight), "a finished run is only read"


@pytest.mark.parametrize("fault", ["rng", "exp_avg", "step"])
def test_resume_checker_notices_what_a_checkpoint_forgets(fault, tmp_path, monkeypatch):
    straight = learn(pipeline(), **RUN)
    def fail_later(self):
        if self.done == 4: raise KeyboardInterrupt
        return step(self)
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", fail_later)
    with pytest.raises(KeyboardInterrupt): learn(pipeline(), output_dir=tmp_path, **RUN)
    monkeypatch.undo()
    load = training.load_checkpoint
    def forgetful(folder, **kw):
        found = load(folder, **kw)
        if fault == "rng": found.state["generators"] = [torch.Generator().manual_seed(0).get_state()]
        else:
            for moments in found.state["optimizer"]["state"].values(): moments[fault] = torch.zeros_like(moments[fault])
        return found
    monkeypatch.setattr(training, "load_checkpoint", forgetful)
    assert not alike(learn(pipeline(), output_dir=tmp_path, **RUN), straight)


def test_checkpoints_of_something_else(tmp_path):
    learn(pipeline(), output_dir=tmp_path)
    for change, word in ((dict(lr=.1), "lr: 0.005 there, 0.1 now"), (dict(num_bonus=3), "num_bonus"), (dict(seed=1), "seed"),
                         (dict(lr_schedule="linear"), "lr_schedule")):
        with pytest.raises(core.CheckpointError, match=word): learn(pipeline(), output_dir=tmp_path, **change)
    with pytest.raises(core.CheckpointError, match="has done 2 steps"): learn(pipeline(), output_dir=tmp_path, num_steps=1)
    with pytest.raises(core.CheckpointError, match="pictures_sha256"):
        invert(pipeline(), pictures()[::-1], "<x>", init_word="cat", num_steps=2, batch_size=2, size=32, output_dir=tmp_path)
    (tmp_path/"checkpoint.safetensors").write_bytes(b"of version 0.1")
    with pytest.raises(core.CheckpointError, match="earlier version"): learn(pipeline(), output_dir=tmp_path)
    assert len(learn(pipeline(), output_dir=tmp_path, resume=False).history) == 2


def test_reported_more_steps_at_the_same_rates_continue_and_others_do_not(tmp_path):
    learn(pipeline(), output_dir=tmp_path/"constant")
    assert alike(learn(pipeline(), output_dir=tmp_path/"constant", num_steps=5), learn(pipeline(), num_steps=5))
    learn(pipeline(), output_dir=tmp_path/"cosine", lr_schedule="cosine")
    with pytest.raises(core.CheckpointError, match="rates"): learn(pipeline(), output_dir=tmp_path/"cosine", lr_schedule="cosine", num_steps=5)


def changed(family, how):
    "A tiny pipeline in which one small thing is another."
    pipe = pipeline(family)
    with torch.no_grad(): how(pipe)
    return pipe


OTHERS = dict(
    seed=lambda p: [p.unet.load_state_dict(pipeline("sd", seed=1).unet.state_dict())],
    late=lambda p: [x.mul_(-.5) for x in [*p.unet.parameters()][1:]],
    one_number=lambda p: [*p.unet.parameters()][-1].view(-1)[-1:].add_(1e-6),
    vae_decoder=lambda p: [*p.vae.parameters()][-1].view(-1)[:1].add_(1e-3),
    vae_scaling=lambda p: p.vae.register_to_config(scaling_factor=.5),
    text_layer=lambda p: [*p.text_encoder.parameters()][-1].view(-1)[:1].add_(1e-3),
    scheduler=lambda p: p.scheduler.register_to_config(prediction_type="v_prediction"))

@pytest.mark.parametrize("how", OTHERS)
def test_reported_a_pipeline_that_differs_anywhere_is_refused(how, tmp_path):
    learn(pipeline(), output_dir=tmp_path)
    with pytest.raises(core.CheckpointError, match="model: "): learn(changed("sd", OTHERS[how]), num_steps=3, output_dir=tmp_path)
    assert len(learn(pipeline(), num_steps=3, output_dir=tmp_path).history) == 3


@pytest.mark.parametrize("family, part", [("sdxl", "text_encoder_2"), ("flux", "text_encoder_2"), ("sd3", "text_encoder_3"), ("pixart", "transformer"), ("sana", "vae")])
def test_reported_every_part_of_every_family_is_in_the_fingerprint(family, part):
    other = changed(family, lambda p: [*getattr(p, part).parameters()][-1].view(-1)[-1:].add_(1e-3))
    assert pipeline_fingerprint(pipeline(family)) == pipeline_fingerprint(pipeline(family)) != pipeline_fingerprint(other)


def test_corrupt_damaged_checkpoints_are_named(tmp_path):
    learn(pipeline(), output_dir=tmp_path)
    for file in [p for p in (tmp_path/CHECKPOINT).iterdir() if p.name != ".lock"]:
        whole = file.read_bytes()
        for damage in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:len(whole)//2], whole.replace(b"0.005", b"0.006") if b"0.005" in whole else b""):
            file.write_bytes(damage)
            with pytest.raises(core.CorruptFileError, match="delete the folder"): learn(pipeline(), output_dir=tmp_path)
        file.write_bytes(whole)
    assert len(learn(pipeline(), output_dir=tmp_path).history) == 2


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    loss = Trainer.loss
    monkeypatch.setattr(Trainer, "loss", lambda self, batch: loss(self, batch) * (float("nan") if self.done == 3 else 1))
    pipe = pipeline()
    before = whole_state(pipe)
    with pytest.raises(DivergedError, match=r"step 4 of 9: loss nan.*learning rate 0.005.*last good checkpoint is"):
        learn(pipe, num_steps=9, output_dir=tmp_path, save_every=1)
    state = core.load_checkpoint(tmp_path/CHECKPOINT).state
    assert state["step"] == 3 and state["parameters"][0].isfinite().all() and changes(before, whole_state(pipe)) == []
    with pytest.raises(DivergedError, match="step 4"): learn(pipe, num_steps=9)
    monkeypatch.setattr(Trainer, "loss", lambda self, batch: loss(self, batch) * 0 + self.rows["text_encoder"].sum().sqrt() * 0)
    with pytest.raises(DivergedError): learn(pipe, num_steps=9) # a finite loss whose gradient is not
def test_pipelines_that_cannot_learn():
    with pytest.raises(UnsupportedPipelineError, match="object is not supported; supported are"): invert(object(), pictures())
    bare = pipeline()
    bare.text_encoder = None
    with pytest.raises(UnsupportedPipelineError, match="without text encoder"): learn(bare)
    odd = pipeline()
    odd.scheduler.register_to_config(prediction_type="odd")
    with pytest.raises(UnsupportedPipelineError, match="prediction_type 'odd'"): learn(odd)


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
        with pytest.raises(ValueError): learn(pipeline(), output_dir=tmp_path/"c", **wrong)
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
