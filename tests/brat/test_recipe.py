"The recipe of the bases, and the gate."
import numpy as np
import pytest
import torch

from tokenstudy import core
from tokenstudy.brat.world import ATTRIBUTES, CONCEPTS, IDENTITY, check_creature
from tokenstudy.brat.captions import caption, parse
from tokenstudy.brat.bases import BASES, build_base, draw, load_base
from tokenstudy.brat.instruments import Reader
from tokenstudy.brat.recipe import (accuracy, base_loss, creature_of, draw_world, embed, encode_texts, gate, gate_prompts, noisy_steps, pixels_of, train_at, train_base,
                                    train_contrast, train_reader)


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


def seeded(): return torch.Generator().manual_seed(0)


NAN, WORLD, READER = float("nan"), draw_world(4, processes=1), Reader().eval()
BAD = dict(
    noisy_steps=(lambda **kw: noisy_steps(**dict(dict(num_samples=2, generator=seeded()), **kw)),
                 [dict(num_samples=x) for x in (-1, 1.5, None, "2", True)] + [dict(share=x) for x in (NAN, -.1, 2, None, "a")] + [dict(low=-1), dict(high=2), dict(low=.9, high=.1), dict(total=0), dict(total=None)]),
    draw_world=(lambda **kw: draw_world(**dict(dict(count=2, processes=1), **kw)), [dict(count=0), dict(count=-3), dict(count=2.5), dict(count=None), dict(size=0), dict(size="32"), dict(processes=0), dict(part=0), dict(part=NAN)]),
    creature_of=(creature_of, [dict(values=x) for x in ([], [0]*10, [0]*12, [0]*10 + [-1], [0]*10 + [99], [1.7] + [0]*10, [NAN] + [0]*10, None, 3, "0"*11)]),
    pixels_of=(pixels_of, [dict(pictures=x) for x in (None, [1], np.zeros((1, 3, 4, 4), np.uint8), torch.zeros(1, 3, 4, 4))]),
    train_reader=(lambda **kw: train_reader(*WORLD, **kw), [dict(num_steps=0), dict(num_steps=None), dict(batch_size=0), dict(batch_size=1.5), dict(lr=0), dict(lr=NAN), dict(lr="1"), dict(noise=-1), dict(noise=NAN), dict(blur=2), dict(blur=None)]),
    train_contrast=(lambda **kw: train_contrast(*WORLD, **kw), [dict(num_steps=0), dict(batch_size=-1), dict(batch_size="4"), dict(lr=float("inf")), dict(lr=None)]),
    encode_texts=(lambda **kw: encode_texts(build_base("transformer"), **dict(dict(texts=["a creature"]), **kw)), [dict(texts="a creature"), dict(texts=[]), dict(texts=None), dict(texts=[1]), dict(texts=b"a"), dict(length=0), dict(length=None)]),
    train_base=(lambda **kw: train_base(**dict(dict(name="unet", pictures=WORLD[0], values=WORLD[1], num_steps=1, device="cpu"), **kw)),
                [dict(num_steps=0), dict(early=-1), dict(decay=None), dict(warmup=1.5), dict(batch_size=0), dict(lr=NAN), dict(seed=-1), dict(pictures=None), dict(pictures=WORLD[0].float()), dict(pictures=WORLD[0][:0]), dict(values=WORLD[1][:2]), dict(values=None)]),
    train_at=(lambda **kw: train_at(**dict(dict(size=16, name="unet", count=4), **kw)), [dict(size=0), dict(size=None), dict(count=0), dict(count=2.5), dict(reader_steps=0), dict(processes=0)]),
    embed=(lambda **kw: embed(**dict(dict(file="x.safetensors", modules={}, made_by="nobody"), **kw)), [dict(file="../x.safetensors"), dict(file=""), dict(file=None), dict(modules=None), dict(modules=[])]),
    gate_prompts=(gate_prompts, [dict(count=0), dict(count=-1), dict(count=1.5), dict(count=None)]),
    gate=(lambda **kw: gate(build_base("unet"), READER, **kw), [dict(prompts=[]), dict(prompts="a"), dict(prompts=["a creature"]), dict(prompts=[("a", 1)]), dict(prompts=[("a", dict(tail="long"))]), dict(prompts=7), dict(prompts=[("a", dict(colour="red"))], seed=-1)]))


@pytest.mark.parametrize("name, wrong", [pytest.param(name, wrong, id=f"{name}-{i}") for name, (_, all_of) in BAD.items() for i, wrong in enumerate(all_of)])
def test_bad_arguments_of_the_recipe(name, wrong):
    with pytest.raises(ValueError, match=rf"\b{[*wrong][-1] if len(wrong) > 1 and 'seed' in wrong else [*wrong][0]}\b"): BAD[name][0](**wrong)


def test_bad_arguments_of_a_base_loss():
    base, z = build_base("unet"), torch.zeros(2, 24, 8, 8)
    with pytest.raises(ValueError, match="texts holds 1 captions for 2 latents"): base_loss(base, base.unet, z, ["a creature"], seeded())
    with pytest.raises(ValueError, match="values is None"): base_loss(base, base.unet, z, ["a"]*2, seeded(), teacher=torch.nn.Identity())
    with pytest.raises(ValueError, match="weight is nan"): base_loss(base, base.unet, z, ["a"]*2, seeded(), weight=NAN)


def test_bad_arguments_pictures_of_another_form_are_said():
    for pictures, values in ((WORLD[0].float(), WORLD[1]), (WORLD[0][:, :1], WORLD[1]), (WORLD[0][0], WORLD[1]), (WORLD[0], WORLD[1][:3]), (WORLD[0], WORLD[1].float()), (WORLD[0], None), (WORLD[0][:0], WORLD[1][:0])):
        for use in (train_reader, train_contrast, lambda p, v: accuracy(READER, p, v)):
            with pytest.raises(ValueError, match="(pictures|values) is"): use(pictures, values)
