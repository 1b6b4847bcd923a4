"The recipe of the bases, and the gate."
import numpy as np
import pytest
import torch

from tokenstudy import core
from tokenstudy.brat.world import ATTRIBUTES, CONCEPTS, IDENTITY, check_creature
from tokenstudy.brat.captions import caption, parse
from tokenstudy.brat.bases import BASES, build_base, draw, load_base
from tokenstudy.brat.recipe import base_loss, creature_of, draw_world, gate, gate_prompts, pixels_of, train_at, train_base


def test_pictures_of_the_recipe_are_reproducible_and_never_of_a_held_out_kind():
    x, y = draw_world(40, seed=3, processes=1, part=20)
    again, _ = draw_world(40, seed=3, processes=2, part=20)
    assert torch.equal(x, again) and x.dtype == torch.uint8 and x.shape == (40, 3, 32, 32) and y.shape == (40, 11)
    kinds = {tuple(c.values()) for c in CONCEPTS}
    for row, picture in zip(y, x):
        creature = creature_of(row)
        assert check_creature(creature) and tuple(creature[k] for k in IDENTITY) not in kinds
    assert not torch.equal(x, draw_world(40, seed=4, processes=1, part=20)[0])

def test_base_learns_what_it_is_shown():
    "The loss of a batch falls when the base is trained on it, and the text takes part in that."
    x, y = draw_world(8, processes=1)
    before = build_base("unet")
    trained = train_base("unet", x, y, num_steps=12, decay=2, warmup=1, batch_size=8, device="cpu")
    latents = trained.vae.encode(pixels_of(x)).latent_dist.mode()
    texts = [caption(creature_of(v), mention=ATTRIBUTES) for v in y]
    with torch.no_grad():
        def loss(p, t): return float(base_loss(p, p.unet, latents, t, torch.Generator().manual_seed(0)))
        assert loss(trained, texts) < .97 * loss(before, texts)
        assert loss(trained, texts) != loss(trained, texts[::-1])

def test_gate_prompts_ask_for_what_they_say():
    prompts = gate_prompts(200)
    assert all(parse(text) == asked and asked for text, asked in prompts)
    assert {k for _, asked in prompts for k in asked} == set(ATTRIBUTES)

def test_gate_counts_hits_and_misses():
    class Half:
        def read(self, images):
            out = [dict.fromkeys(ATTRIBUTES) | asked for _, asked in prompts]
            for row in out[::2]: row["colour"] = "none"
            return out
    prompts = [("a red creature", dict(colour="red"))] * 4
    base = build_base("unet")
    base.set_progress_bar_config(disable=True)
    found = gate(base, Half(), prompts, num_inference_steps=1)
    assert found["colour"] == [0, 1, 0, 1] and not found["shape"]

def test_gate_was_passed():
    "Both bases that are embedded, on 500 pictures."
    for name in BASES:
        file = core.manifest()[f"base-{name}.safetensors"]["sha256"][:16]
        records = [r for r in core.published("brat/bases", "laptop") if r["config"]["file"] == file and r["config"].get("count") == 500]
        assert records, f"no record of the gate for {name}"
        values = sum(records[-1]["result"].values(), [])
        assert len(values) > 2000 and np.mean(values) >= .9
        assert core.manifest()[f"base-{name}.safetensors"]["size"] < 12e6


def test_a_base_of_another_size_is_trained_once_and_loaded(tmp_path):
    how = dict(count=12, reader_steps=1, processes=1, output_dir=tmp_path, num_steps=2, early=1, batch_size=2, device="cpu")
    file = train_at(48, "transformer", **how)
    written = file.stat().st_mtime_ns
    assert train_at(48, "transformer", **how) == file and file.stat().st_mtime_ns == written
    assert draw(load_base("transformer", "cpu", 48, file=file), "a creature", num_inference_steps=1).shape == (1, 3, 48, 48)
    with pytest.raises(ValueError, match="train_at"): load_base("unet", "cpu", 48)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(core.CorruptFileError, match="delete"): load_base("transformer", "cpu", 48, file=file)
    with pytest.raises(core.CorruptFileError): load_base("transformer", "cpu", 48, file=tmp_path/"missing")
