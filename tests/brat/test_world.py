"""The drawn world: same pictures everywhere, true captions, kinds that nobody has seen; the autoencoder, tokenizer and bases by themselves and in plain diffusers;
the instruments on fresh drawings, and that they fail where something is wrong; a user's own pictures."""
import hashlib
import itertools
import json
import os
import random
import re
import sys
import textwrap
import types
import warnings

import numpy as np
import pytest
import torch
from conftest import ROOT, run
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageFilter
from torch.nn import functional as F

from tokenstudy import core
from tokenstudy import brat as canvas
from tokenstudy.brat.world import ATTRIBUTES, CONCEPTS, IDENTITY, SCENE, as_picture, as_pixels, random_creature, render
from tokenstudy.brat.bases import BASES, draw
from tokenstudy.brat.captions import caption, load_pictures, parse
from tokenstudy.brat import world

FRESH = 10**6 # the trainings' seeds are smaller
CREATURES = st.fixed_dictionaries({k: st.sampled_from(v) for k, v in ATTRIBUTES.items()})


def fresh(i, **fixed): return random_creature(random.Random(str(FRESH + i)), **fixed)
def drawn(i, size=32): return render(fresh(i), size, seed=str(FRESH + i))


@pytest.fixture(scope="module")
def reader(): return canvas.load_reader("cpu")


@pytest.fixture(scope="module")
def contrast(): return canvas.load_contrast("cpu")


@pytest.fixture(scope="module")
def bases(): return {name: canvas.load_base(name, "cpu") for name in BASES}


# --- another process ----------------------------------------------------------------------------------------------------------------------------

ELSEWHERE = textwrap.dedent("""
    import json, sys, torch
    from diffusers import PixArtAlphaPipeline, StableDiffusionPipeline
    from tokenstudy.brat import canvas
    sys.path.insert(0, sys.argv[1])
    from test_canvas import fingerprints
    found = dict(prints=fingerprints())
    for name, cls, more in (("unet", StableDiffusionPipeline, {}),
                            ("transformer", PixArtAlphaPipeline, dict(use_resolution_binning=False, clean_caption=False, max_sequence_length=40))):
        pipe = cls.from_pretrained(canvas.base_folder(name))
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(s) for s in (3, 4)]
        pictures = pipe(["a big red creature", "a blue monster at night"], generator=generators, guidance_scale=3., num_inference_steps=3, output_type="np", **more).images
        found[name] = pictures.tolist()
    with open(sys.argv[2], "w") as f: json.dump(found, f)
""")


def fingerprints() -> dict:
    "What must be the same in every process."
    pictures = {f"{i} {size}": hashlib.sha256(render(fresh(i), size, seed=i).tobytes()).hexdigest() for i in range(8) for size in (8, 32, 45, 256)}
    tokenizer = canvas.build_tokenizer()
    return dict(pictures=pictures, vocabulary=tokenizer.get_vocab(), ids=tokenizer([caption(fresh(i), random.Random(i)) for i in range(20)]).input_ids,
                concepts=CONCEPTS, learned=[hashlib.sha256(p.tobytes()).hexdigest() for p in canvas.concept_pictures(CONCEPTS[0], 6, seed=3)])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    "The answers of a fresh process with other hashes: pictures of both bases by plain diffusers, and the fingerprints."
    folder = tmp_path_factory.mktemp("elsewhere")
    made = run(sys.executable, "-c", ELSEWHERE, ROOT/"tests", folder/"found.json", cwd=ROOT, PYTHONHASHSEED="4711", TOKENSTUDY_CACHE=str(folder/"cache"))
    assert made.returncode == 0, made.stdout[-4000:]
    return json.loads((folder/"found.json").read_text())


def test_canvas_is_the_same_in_a_fresh_process(elsewhere):
    ours = json.loads(json.dumps(fingerprints()))
    for k in ours: assert elsewhere["prints"][k] == ours[k], k
    assert len(set(ours["pictures"].values())) == len(ours["pictures"])


@pytest.mark.parametrize("name", BASES)
def test_canvas_base_in_plain_diffusers_draws_the_same(elsewhere, bases, name):
    ours = draw(bases[name], ["a big red creature", "a blue monster at night"], [3, 4], steps=3)
    theirs = torch.tensor(elsewhere[name]).permute(0, 3, 1, 2)
    assert ours.shape == (2, 3, 32, 32) and torch.allclose(theirs, ours, atol=1e-5) and float(ours.std()) > .02


# --- drawings -----------------------------------------------------------------------------------------------------------------------------------

def test_canvas_renders_at_any_size():
    creature = fresh(0)
    small = np.asarray(render(creature, 32, seed=5), float)
    for size in (8, 31, 64, 130, 256, 400, 1024):
        picture = render(creature, size, seed=5)
        assert picture.size == (size, size) and picture.mode == "RGB"
        if size % 32 == 0: assert np.abs(np.asarray(picture.resize((32, 32), Image.Resampling.BOX), float) - small).mean() < 6 # the same scene, finer
    assert render(creature, seed=5).tobytes() == render(dict(reversed(creature.items())), 32, 5).tobytes() != render(creature, seed=6).tobytes()
    for size in (7, 0, -32, 4097):
        with pytest.raises(ValueError, match="between 8 and 4096"): render(creature, size)


@pytest.mark.parametrize("by", [0, 1, 2, 7])
def test_canvas_outline_is_the_maximum_over_squares(by):
    mask = Image.fromarray((np.random.default_rng(by).random((40, 40)) ** 20 * 255).astype(np.uint8))
    assert world._grown(mask, by).tobytes() == mask.filter(ImageFilter.MaxFilter(2*by + 1)).tobytes()


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_canvas_every_value_changes_the_picture(monkeypatch, attribute):
    "Without the accidents, which differ between creatures anyhow."
    still = types.SimpleNamespace(uniform=lambda a, b: 0.)
    scenes = [fresh(i, accessory="nothing") for i in range(8)]
    monkeypatch.setattr(canvas, "random", types.SimpleNamespace(Random=lambda seed: still))
    for scene in scenes:
        pictures = [np.asarray(render(scene | {attribute: value}), int) for value in ATTRIBUTES[attribute]]
        for a, b in itertools.combinations(pictures, 2): assert (np.abs(a - b).max(-1) > 16).sum() >= 5 # pixels that anyone can tell apart


def test_canvas_check_creature():
    creature = fresh(0)
    assert canvas.check_creature(creature) is creature
    for wrong, message in (({k: v for k, v in creature.items() if k not in ("top", "style")}, "has no top, style"), (creature | dict(hat="red"), "'hat' is no attribute; they are: shape"),
                           (creature | dict(colour="gren"), "colour cannot be 'gren'; it can be: red, orange"), (creature | dict(eyes=None), "eyes cannot be None")):
        for check in (canvas.check_creature, render):
            with pytest.raises(ValueError, match=message): check(wrong)
    for wrong, message in ((dict(colour="gren"), "colour cannot be 'gren'"), (dict(color="red"), "'color' is no attribute")):
        with pytest.raises(ValueError, match=message): random_creature(random.Random(0), **wrong)


def test_canvas_grid_pictures_and_pixels():
    pictures, batch = [drawn(i) for i in range(5)], as_pixels([drawn(i) for i in range(5)])
    assert batch.shape == (5, 3, 32, 32) and batch.dtype == torch.float32 and -1 <= batch.min() < 0 < batch.max() <= 1
    assert all(as_picture((x + 1)/2).tobytes() == p.tobytes() for x, p in zip(batch, pictures))
    assert torch.allclose(as_pixels((batch + 1)/2, 32), batch, atol=1e-6) and as_pixels(pictures, 16).shape == (5, 3, 16, 16) and as_pixels(pictures, 64).shape == (5, 3, 64, 64)
    assert torch.allclose(as_pixels(pictures, 16), F.avg_pool2d(batch, 2), atol=1e-6)
    grey = as_picture(Image.new("L", (4, 3), 7))
    assert grey.mode == "RGB" and grey.size == (4, 3) and grey.getpixel((0, 0)) == (7, 7, 7)
    assert as_picture(torch.tensor([-1., .5, 2.]).view(3, 1, 1)).getpixel((0, 0)) == (0, 128, 255)
    sheet = canvas.grid(pictures, columns=3, side=40, gap=2)
    assert sheet.size == (3*42 - 2, 2*42 - 2) and sheet.getpixel((125 - 2, 83 - 2)) == (255, 255, 255) # the sixth place is empty
    assert canvas.grid(iter(pictures)).size == (5*66 - 2, 64) and canvas.grid((batch + 1)/2).tobytes() == canvas.grid(pictures).tobytes()
    assert np.array_equal(np.asarray(canvas.grid(pictures[:1], side=64))[::2, ::2], np.asarray(pictures[0])) # pixels stay squares
    with pytest.raises(ValueError, match="no picture to show"): canvas.grid([])
    for wrong in (torch.zeros(1, 32, 32), torch.zeros(2, 3, 32, 32), torch.zeros(32, 32, 3)):
        with pytest.raises(ValueError, match=re.escape(f"a picture is [3, H, W], not {list(wrong.shape)}")): as_picture(wrong)
    for wrong in (torch.zeros(3, 32, 32), torch.zeros(2, 1, 32, 32)):
        with pytest.raises(ValueError, match=re.escape(f"pictures are [B, 3, H, W], not {list(wrong.shape)}")): as_pixels(wrong)


def test_canvas_pixels_of_pictures_of_different_sizes():
    "As a folder of photographs has them."
    assert as_pixels([drawn(0, 32), drawn(1, 48), Image.new("RGB", (50, 20))], 32).shape == (3, 3, 32, 32)
    assert torch.equal(as_pixels(drawn(0)), as_pixels([drawn(0)])) and as_pixels(Image.new("RGB", (20, 100)), 32).shape == (1, 3, 32, 32)
    mixed = torch.rand(2, 3, 32, 32, requires_grad=True)
    assert torch.equal(as_pixels(list(mixed)), as_pixels(mixed)) and as_pixels(list(mixed)).requires_grad # not by way of 8 bits
    for wrong, message in (([], "no picture"), (torch.zeros(0, 3, 32, 32), "no picture"), ([drawn(0, 32), drawn(1, 48)], "different sizes"),
                           (as_pixels([drawn(0)]), "floats in"), (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "floats in")):
        with pytest.raises(ValueError, match=message): as_pixels(wrong)


def test_canvas_transparent_pictures_lie_on_white():
    for clear in (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), Image.new("LA", (4, 4), (9, 0))): assert as_picture(clear).getpixel((0, 0)) == (255, 255, 255)


# --- captions -----------------------------------------------------------------------------------------------------------------------------------

def check_caption(creature, text, mention):
    "A caption says what it was asked to say, and nothing that is not so."
    said = parse(text)
    assert said.items() <= creature.items()
    if mention is not None: assert set(said) == {k for k in mention if creature[k] != "nothing"}


@settings(max_examples=300)
@given(CREATURES, st.integers(0, 10**9), st.none() | st.sets(st.sampled_from(sorted(ATTRIBUTES))))
def test_canvas_captions_are_true(creature, seed, mention):
    text = caption(creature, random.Random(seed), mention)
    check_caption(creature, text, mention)
    assert text == caption(creature, random.Random(seed), mention) and re.fullmatch(r"\w[\w ,]*\w", text) and "  " not in text
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), "a or an"
    marked = caption(creature, random.Random(seed), mention, subject="<x>")
    assert marked.count("<x>") == 1
    check_caption(creature, marked, mention)


@settings(max_examples=60)
@given(CREATURES, st.integers(0, 10**9), st.sampled_from(sorted(ATTRIBUTES)), st.data())
def test_canvas_a_false_caption_is_caught(creature, seed, attribute, data):
    other = data.draw(st.sampled_from([v for v in ATTRIBUTES[attribute] if v != creature[attribute]]))
    false = caption(creature | {attribute: other}, random.Random(seed), ATTRIBUTES)
    with pytest.raises(AssertionError): check_caption(creature, false, ATTRIBUTES)
    with pytest.raises(AssertionError): check_caption(creature, caption(creature, random.Random(seed), set(ATTRIBUTES) - {"shape"}), ATTRIBUTES)


def test_canvas_captions_in_plain_words():
    "Against words written by hand, not against the table that makes captions."
    creature = dict(shape="starry", colour="orange", top="antennae", pattern="spotted", eyes="three", limbs="wings",
                    background="sea", place="centre", size="small", accessory="scarf", style="sticker")
    words = {"a sticker of", "small", "starry", "orange", "spotted", "antennae", "three eyes", "wings", "on the sea", "in the middle", "wearing a scarf"}
    for seed in range(20): assert all(w in caption(creature, random.Random(seed), ATTRIBUTES) for w in words)
    assert parse("A Sticker of an orange, SMALL thing -- on the sea") == dict(style="sticker", colour="orange", size="small", background="sea")
    assert parse("") == parse("one creature of the sea in snowy cities") == {}
    bare = {caption(creature, random.Random(seed), ()) for seed in range(400)}
    assert bare == {f"{opening} {noun}".strip() for opening in ("a picture of", "a photo of", "an image of", "") for noun in ("a creature", "a monster", "an animal")}
    assert caption(creature, random.Random(0), ["colour"], subject="<x>").endswith("an orange <x>")
    with pytest.raises(ValueError, match="'color' is no attribute"): caption(creature, mention=["color"])
    assert canvas.phrase("accessory", "nothing") is None
    with pytest.raises(ValueError, match="two values of colour: red, blue"): parse("a blue red creature")
    for wrong in (lambda: canvas.phrase("background", "moon"), lambda: canvas.phrase("hat", "red"), lambda: caption(creature | dict(colour="gren")), lambda: caption(dict(colour="red"))):
        with pytest.raises(ValueError): wrong()


def test_canvas_mention_may_be_any_iterable():
    assert parse(caption(fresh(0), random.Random(0), (k for k in ("colour", "shape")))).keys() == {"colour", "shape"}
    assert parse(caption(fresh(0), random.Random(0), "colour")).keys() == {"colour"}


def test_canvas_phrases_do_not_hide_in_each_other():
    said = {(k, v): f" {p} " for k, values in ATTRIBUTES.items() for v in values if (p := canvas.phrase(k, v))}
    assert len(said) == sum(map(len, ATTRIBUTES.values())) - 1
    for a, b in itertools.permutations(said.values(), 2): assert a not in b


# --- kinds that nobody has seen -----------------------------------------------------------------------------------------------------------------

def test_canvas_held_out_kinds():
    assert len(CONCEPTS) == 12 and canvas.held_out() == CONCEPTS and canvas.held_out(seed=1) != CONCEPTS
    for kind in CONCEPTS: assert list(kind) == list(IDENTITY) and all(v in IDENTITY[k] for k, v in kind.items())
    for a, b in itertools.combinations(CONCEPTS, 2): assert sum(a[k] != b[k] for k in IDENTITY) >= 4
    for k, values in IDENTITY.items(): assert {kind[k] for kind in CONCEPTS} == set(values)


def test_canvas_held_out_kinds_are_never_drawn_by_chance():
    rng = random.Random(0)
    for _ in range(20_000): assert {k: v for k, v in random_creature(rng).items() if k in IDENTITY} not in CONCEPTS

    class Stubborn:
        "Proposes the held-out kinds first."
        def __init__(self):
            last = dict(CONCEPTS[0], shape=next(s for s in IDENTITY["shape"] if s != CONCEPTS[0]["shape"]))
            self.values = iter([kind.get(k, v[0]) for kind in [*CONCEPTS, last] for k, v in ATTRIBUTES.items()])
        def choice(self, values):
            assert (value := next(self.values)) in values
            return value
    assert random_creature(Stubborn())["shape"] != CONCEPTS[0]["shape"]
    for kind in CONCEPTS: assert kind.items() <= random_creature(rng, **kind, place="left").items()


def test_canvas_concept_pictures(reader):
    for kind in CONCEPTS[:3]:
        pictures = canvas.concept_pictures(kind, 5, seed=2)
        found = reader.read(pictures)
        assert len(pictures) == 5 == len({f["background"] for f in found}) and {p.size for p in pictures} == {(32, 32)}
        assert np.mean([canvas.hits(f, kind | dict(accessory="nothing")) for f in found]) > .95
        assert [p.tobytes() for p in canvas.concept_pictures(kind, 5, seed=3)] != [p.tobytes() for p in pictures]
    assert canvas.concept_pictures(CONCEPTS[0], 1, size=64)[0].size == (64, 64)
    for wrong in ((dict(colour="red"),), (fresh(0),), (CONCEPTS[0], 0), (CONCEPTS[0] | dict(colour="gren"),)):
        with pytest.raises(ValueError): canvas.concept_pictures(*wrong)


# --- words and latents --------------------------------------------------------------------------------------------------------------------------

def test_canvas_vocabulary_is_one_piece_each():
    tokenizer, words = canvas.build_tokenizer(), canvas.vocabulary()
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    pieces = {w: tokenizer(w, add_special_tokens=False).input_ids for w in [*words, ","]}
    assert all(len(ids) == 1 and not special & set(ids) for ids in pieces.values()) and len({i for ids in pieces.values() for i in ids}) == len(words) + 1
    assert words == sorted(set(words)) and len(tokenizer.get_vocab()) == len(tokenizer) == 1 + max(tokenizer.get_vocab().values())
    for i in range(200):
        text = caption(fresh(i), random.Random(i), ATTRIBUTES)
        assert set(re.findall(r"\w+", text)) <= set(words)
        ids = tokenizer(text).input_ids
        assert len(ids) == 2 + len(re.findall(r"\w+|,", text)) <= 40 and not special & set(ids[1:-1]) and tokenizer.decode(ids[1:-1]).replace(" ,", ",").strip() == text
    assert tokenizer.tokenize("zebra,") == ["z", "e", "b", "r", "a</w>", ",</w>"]
    assert tokenizer("a red creature", padding="max_length").input_ids[5:] == [tokenizer.pad_token_id]*35 and canvas.build_tokenizer(9).model_max_length == 9


@pytest.fixture(scope="module")
def pixels(): return as_pixels([drawn(i) for i in range(150)])


def check_autoencoder(vae, pixels):
    "Directions are orthonormal; what is lost is what the discarded eigenvalues say."
    patches = F.pixel_unshuffle(pixels, 4).flatten(2).mT.flatten(0, 1).double()
    count = len(vae.directions)
    z = vae.encode(pixels).latent_dist.sample()
    back = vae.decode(z).sample
    assert z.shape == (len(pixels), count, 8, 8) and back.shape == pixels.shape
    assert torch.allclose(vae.directions @ vae.directions.T, torch.eye(count), atol=1e-5)
    assert torch.allclose(vae.encode(back).latent_dist.mode(), z, atol=1e-4)
    lost = float(torch.linalg.eigvalsh(torch.cov(patches.T))[:-count].sum())/48
    assert float((back - pixels).square().mean()) == pytest.approx(lost, rel=1e-3)
    assert float((z - z.mean((0, 2, 3), keepdim=True)).square().mean()) == pytest.approx(1, rel=1e-3)


@torch.no_grad()
def test_canvas_autoencoder(pixels, tmp_path):
    vae = canvas.PatchPCA().fit(pixels)
    check_autoencoder(vae, pixels)
    check_autoencoder(canvas.PatchPCA(latent_channels=7).fit(pixels), pixels)
    vae.save_pretrained(tmp_path)
    again = canvas.PatchPCA.from_pretrained(tmp_path)
    for k in ("patch", "latent_channels", "scaling_factor"): assert again.config[k] == vae.config[k]
    assert list(again.config.block_out_channels) == list(vae.config.block_out_channels) and not any(p.requires_grad for p in again.parameters())
    for k, v in vae.state_dict().items(): assert torch.equal(again.state_dict()[k], v)
    assert torch.equal(vae.decode(vae.encode(pixels, return_dict=False)[0].mode(), return_dict=False)[0], vae.decode(vae.encode(pixels).latent_dist.mean).sample)
    vae.directions[0] *= 1.1
    with pytest.raises(AssertionError): check_autoencoder(vae, pixels)


@torch.no_grad()
def test_canvas_autoencoder_of_few_colours():
    vae = canvas.PatchPCA().fit(torch.ones(4, 3, 32, 32))
    assert all(torch.isfinite(v).all() for v in vae.state_dict().values())
    with pytest.raises(ValueError, match="patch 8 needs block_out_channels of 4 entries"): canvas.PatchPCA(patch=8)


@torch.no_grad()
def test_canvas_embedded_autoencoders(bases, pixels, reader):
    for pipeline in bases.values():
        vae = pipeline.vae
        assert torch.allclose(vae.directions @ vae.directions.T, torch.eye(24), atol=2e-3)   # it was stored in half precision
        back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        assert (back - pixels).square().mean() < .02
        assert np.mean([canvas.hits(found, fresh(i)) for i, found in enumerate(reader.read((back.clamp(-1, 1) + 1)/2))]) > .96


# --- the bases ----------------------------------------------------------------------------------------------------------------------------------

def test_canvas_bases_are_small_frozen_and_named(bases):
    for name, pipeline in bases.items():
        entry = core.manifest()[f"base-{name}.safetensors"]
        assert entry["size"] <= 12e6 and entry["licence"] == "Apache-2.0" and canvas.denoiser(pipeline) is canvas.parts(pipeline)["denoiser"]
        for module in canvas.parts(pipeline).values():
            assert not module.training and not any(p.requires_grad for p in module.parameters()) and {p.dtype for p in module.parameters()} == {torch.float32}
            assert all(torch.isfinite(v).all() for v in module.state_dict().values())
        assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert [type(p).__name__ for p in bases.values()] == ["StableDiffusionPipeline", "PixArtAlphaPipeline"]
    for make in (canvas.load_base, canvas.build_base, canvas.base_folder):
        with pytest.raises(ValueError, match="no base 'vae'; there are: unet, transformer"): make("vae")
    with pytest.raises(ValueError, match="multiple of 8"): canvas.build_base("unet", 30)


def test_canvas_loading_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    canvas.load_base("unet", "cpu"), canvas.load_reader("cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("file, load", [("base-unet", lambda: canvas.load_base("unet", "cpu")), ("base-transformer", lambda: canvas.base_folder("transformer")),
                                        ("canvas-reader", canvas.load_reader), ("canvas-contrast", canvas.load_contrast)])
def test_canvas_a_damaged_asset_is_named(tmp_path, monkeypatch, file, load):
    file, assets = f"{file}.safetensors", tmp_path/"assets"
    assets.mkdir()
    for each in ("MANIFEST.json", file): (assets/each).write_bytes((core.assets_dir()/each).read_bytes())
    monkeypatch.setattr(core, "assets_dir", lambda: assets)
    monkeypatch.setenv("TOKENSTUDY_CACHE", str(tmp_path/"cache"))
    data = bytearray((assets/file).read_bytes())
    data[len(data)//2] ^= 1
    (assets/file).write_bytes(data)
    with pytest.raises(core.CorruptFileError, match=f"{file} is damaged: sha256"): load()
    (assets/file).write_bytes(data[:-1])
    with pytest.raises(core.CorruptFileError, match=f"{file} is damaged: {len(data)} bytes expected"): load()
    (assets/file).unlink()
    with pytest.raises(core.CorruptFileError, match=f"{file} is missing"): load()
    assert not list((tmp_path/"cache").rglob("*.json")), "nothing half-written"


@pytest.mark.parametrize("name", BASES)
def test_canvas_a_picture_depends_on_its_own_seed_only(bases, name):
    pipeline, prompts = bases[name], ["a red creature", "a blue monster at night", "a sticker of a big animal"]
    together = draw(pipeline, prompts, [5, 6, 7], steps=3)
    assert together.shape == (3, 3, 32, 32) and together.dtype == torch.float32 and 0 <= together.min() <= together.max() <= 1
    assert torch.allclose(draw(pipeline, prompts[1], [6], steps=3)[0], together[1], atol=1e-5)
    assert torch.allclose(draw(pipeline, reversed(prompts), (7, 6, 5), steps=3, batch_size=2).flip(0), together, atol=1e-5)
    assert torch.allclose(draw(pipeline, prompts[:2], steps=3), draw(pipeline, prompts[:2], [0, 1], steps=3, batch_size=1), atol=1e-5)
    assert (draw(pipeline, prompts[1], [8], steps=3)[0] - together[1]).abs().max() > .05
    assert (draw(pipeline, prompts[0], [6], steps=3)[0] - together[1]).abs().max() > .01
    for seeds in ([1], [1, 2, 3, 4], []):
        with pytest.raises(ValueError, match=f"3 prompts need as many seeds, not {len(seeds)}"): draw(pipeline, prompts, seeds)
    with pytest.raises(ValueError, match="no prompt"): draw(pipeline, [])


def test_canvas_seeds_may_come_from_numpy(bases):
    pictures = draw(bases["unet"], ["a", "a"], range(2), steps=1)
    for seeds in (np.arange(2), torch.arange(2)): assert torch.equal(draw(bases["unet"], ["a", "a"], seeds, steps=1), pictures)
    assert torch.allclose(draw(bases["unet"], "a", 1, steps=1), pictures[1:], atol=1e-5)


@pytest.mark.parametrize("name", BASES)
def test_canvas_negative_prompts(bases, name):
    "One for all or one for each, in batches of any size."
    pipeline, prompts, seeds = bases[name], ["a creature"]*3, [4, 4, 4]
    plain, one = draw(pipeline, prompts, seeds, steps=2), draw(pipeline, prompts, seeds, steps=2, negative_prompt="at night")
    each = draw(pipeline, prompts, seeds, steps=2, negative_prompt=["at night", "", "at night"], batch_size=2)
    assert torch.allclose(each[::2], one[::2], atol=1e-5) and torch.allclose(each[1], plain[1], atol=1e-5) and (one - plain).abs().max() > .01
    with pytest.raises(ValueError, match="one negative prompt or as many, not 2"): draw(pipeline, prompts, seeds, negative_prompt=["a", "b"])
    with pytest.raises(ValueError, match="batch_size"): draw(pipeline, prompts, seeds, batch_size=0)


@pytest.mark.parametrize("name", BASES)
def test_canvas_gate(bases, reader, name):
    "The claim is 90 % on 500 pictures; this is a sample of 32. Exchanged sentences must not pass."
    texts = [caption(fresh(i), random.Random(FRESH + i)) for i in range(40)]
    texts = [t for t in texts if parse(t)][:32]
    found = reader.read(draw(bases[name], texts, range(FRESH, FRESH + 32)))
    share = lambda asked: np.mean([f[k] == v for f, t in zip(found, asked) for k, v in parse(t).items()])
    assert share(texts[1:] + texts[:1]) < .6
    assert share(texts) >= .85, f"the {name} draws {share(texts):.0%} of what it is asked"


# --- the instruments ----------------------------------------------------------------------------------------------------------------------------

def test_canvas_reader_reads_fresh_drawings(reader):
    creatures, pictures = [fresh(i) for i in range(300)], [drawn(i) for i in range(300)]
    right = lambda pictures: {k: np.mean([f[k] == c[k] for f, c in zip(reader.read(pictures), creatures)]) for k in ATTRIBUTES}
    share = right(pictures)
    assert np.mean([*share.values()]) >= .99 and min(share.values()) >= .97
    swapped = right((as_pixels(pictures)[:, [2, 0, 1]] + 1)/2)
    assert swapped["colour"] < .5 and np.mean([*swapped.values()]) < .9
    assert right(pictures[1:] + pictures[:1])["shape"] < .4
    assert [reader.read([p])[0] for p in pictures[:5]] == reader.read(pictures[:5]) and list(reader.read(pictures[:1])[0]) == list(ATTRIBUTES)
    large = [drawn(i, 64) for i in range(20)]
    assert np.mean([canvas.hits(f, c) for f, c in zip(reader.read(large), creatures)]) >= .98


def test_canvas_hits_and_chance():
    creature = fresh(0)
    assert canvas.hits(creature, creature) == 1 and canvas.hits(creature | dict(top="?"), dict(top="ears", size=creature["size"])) == .5
    with pytest.raises(ValueError, match="nothing was asked"): canvas.hits(creature, {})
    for wrong in (lambda: canvas.hits(creature, dict(color="red")), lambda: canvas.hits(creature, dict(colour="rouge")), lambda: canvas.chance([]), lambda: canvas.chance(["hat"])):
        with pytest.raises(ValueError): wrong()
    assert canvas.chance(["colour"]) == 1/8 and canvas.chance(k for k in ("shape", "size")) == pytest.approx((1/6 + 1/2)/2)
    answers = [(random.Random(f"a {i}"), random.Random(f"b {i}")) for i in range(1500)]
    blind = np.mean([canvas.hits(random_creature(a), random_creature(b)) for a, b in answers])
    assert blind == pytest.approx(canvas.chance(ATTRIBUTES), abs=.02)


def unit(vectors, *shape): return vectors.shape == shape and torch.allclose(vectors.norm(dim=1), torch.ones(shape[0]), atol=1e-5)


def test_canvas_contrast_finds_the_caption(contrast):
    images = contrast.image([drawn(i) for i in range(64)])
    texts = contrast.text(said := [caption(fresh(i), random.Random(i), ATTRIBUTES) for i in range(64)])
    assert unit(images, 64, 128) and unit(texts, 64, 128)
    top1 = lambda a, b: float((a @ b.T).argmax(1).eq(torch.arange(64)).float().mean())
    assert top1(images, texts) > .8 and top1(texts, images) > .8 and top1(images, texts.roll(1, 0)) < .1
    assert torch.allclose(contrast.text(said[3:4]), texts[3:4], atol=1e-5), "a text's vector does not depend on its neighbours"
    assert torch.allclose(contrast.image((as_pixels([drawn(0)]) + 1)/2), images[:1], atol=1e-5)


def test_canvas_contrast_takes_one_text_with_any_signs(contrast):
    assert torch.allclose(contrast.text("a red creature"), contrast.text(["a red creature"]), atol=1e-6)
    assert torch.allclose(contrast.text("ä “red” creaturé"), contrast.text(["a red creature"]), atol=1e-6)


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    "Folders of a tiny random CLIP and a tiny random ViT, as DINO is one."
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, ViTConfig, ViTImageProcessor, ViTModel
    folder, tokenizer = tmp_path_factory.mktemp("models"), canvas.build_tokenizer()
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    words = dict(vocab_size=len(tokenizer), max_position_embeddings=40, **{f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")})
    CLIPModel(CLIPConfig(text_config=small | words, vision_config=small | dict(image_size=32, patch_size=8), projection_dim=8)).save_pretrained(folder/"clip")
    tokenizer.save_pretrained(folder/"clip")
    CLIPImageProcessor(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32)).save_pretrained(folder/"clip")
    ViTModel(ViTConfig(**small, image_size=32, patch_size=8)).save_pretrained(folder/"vit")
    ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(folder/"vit")
    return folder


@torch.no_grad()
def test_canvas_hub_models_from_a_folder(tiny_models):
    clip, dino = (canvas.HubSimilarity(str(tiny_models/name), "cpu") for name in ("clip", "vit"))
    pictures, texts = [drawn(0), drawn(1, 80)], ["a red creature", "a blue monster at night on the left"]
    images, said = clip.image(pictures), clip.text(texts)
    assert unit(images, 2, 8) and unit(said, 2, 8) and unit(dino.image(pictures), 2, 16)
    assert torch.allclose(clip.image(as_pixels([drawn(0)])/2 + .5), images[:1], atol=1e-5) and torch.allclose(clip.text(texts[:1]), said[:1], atol=1e-5)
    vision, ids = clip.model.vision_model(**clip.processor(pictures[:1], return_tensors="pt")), clip.tokenizer(texts[:1], return_tensors="pt")
    assert torch.allclose(images[:1], F.normalize(clip.model.visual_projection(vision.pooler_output)), atol=1e-5)
    assert torch.allclose(said[:1], F.normalize(clip.model.text_projection(clip.model.text_model(**ids).pooler_output)), atol=1e-5)
    token = dino.model(**dino.processor(pictures[:1], return_tensors="pt")).last_hidden_state[:, 0]
    assert torch.allclose(dino.image(pictures[:1]), F.normalize(token), atol=1e-5)
    with pytest.raises(ValueError, match="pictures only"): dino.text(["a"])


def test_canvas_hub_models_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path/"empty").mkdir()
    for name in ("nobody/nothing", str(tmp_path/"empty"), str(tmp_path/"gone")):
        with pytest.raises(core.MissingModelError, match=re.escape(name) + " could not be loaded"): canvas.HubSimilarity(name, "cpu")


# --- a user's own pictures ----------------------------------------------------------------------------------------------------------------------

def folder_of(tmp_path, **pictures):
    "A folder with a plain picture, so that nothing warns, and others."
    Image.new("RGB", (5, 5), "blue").save(tmp_path/"zz.png")
    for name, picture in pictures.items(): picture.save(tmp_path/name.replace("__", "."))
    return tmp_path


def first(folder):
    picture = load_pictures(folder)[0]
    assert picture.mode == "RGB"
    return picture


def test_canvas_own_pictures(tmp_path):
    picture = drawn(0, 60).resize((60, 40))
    for i, (suffix, how) in enumerate([("png", {}), ("JPG", dict(quality=95)), ("jpeg", dict(quality=95)), ("webp", dict(lossless=True)), ("Png", {})]): picture.save(tmp_path/f"{i}.{suffix}", **how)
    picture.save(tmp_path/"5.bmp")
    (tmp_path/"notes.txt").write_text("of my creature")
    (tmp_path/"older").mkdir()
    picture.save(tmp_path/"older"/"6.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_pictures(str(tmp_path))
    assert [p.size for p in found] == [(60, 40)]*5 and {p.mode for p in found} == {"RGB"}
    for i, p in enumerate(found): assert np.abs(np.asarray(p, int) - np.asarray(picture, int)).mean() < (10 if i in (1, 2) else 1e-9)


def test_canvas_hidden_files_and_folders_are_ignored(tmp_path):
    folder = folder_of(tmp_path, a__png=Image.new("RGB", (4, 4)))
    (folder/"._a.png").write_bytes(b"\0\5\26\7 what a Mac leaves on a stick")
    Image.new("RGB", (4, 4)).save(folder/".thumb.png")
    (folder/"old.png").mkdir()
    assert len(load_pictures(folder)) == 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_canvas_own_pictures_stand_upright(tmp_path, suffix):
    "Orientation 6: the camera was turned, the top of the scene is at the right of the file."
    upright = np.zeros((24, 16, 3), np.uint8)
    upright[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path/f"a.{suffix}", exif=exif)
    found = np.asarray(first(folder_of(tmp_path)), int)
    assert found.shape == upright.shape and np.abs(found - upright).mean() < 12


def test_canvas_own_pictures_of_every_kind(tmp_path):
    half, palette = Image.new("RGBA", (4, 4), (255, 0, 0, 128)), Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    folder = folder_of(tmp_path)
    for picture, how, colour in ((Image.new("RGBA", (4, 4), (9, 9, 9, 0)), {}, (255, 255, 255)), (half, {}, (255, 127, 127)), (Image.new("LA", (4, 4), (9, 0)), {}, (255, 255, 255)),
                                 (palette, {}, (200, 100, 50)), (palette, dict(transparency=1), (255, 255, 255)), (Image.new("L", (4, 4), 77), {}, (77, 77, 77)),
                                 (Image.new("RGB", (4, 4), (1, 2, 3)), dict(transparency=(1, 2, 3)), (255, 255, 255)), (Image.new("1", (4, 4), 1), {}, (255, 255, 255))):
        picture.save(folder/"a.png", **how)
        assert first(folder).getpixel((1, 1)) == pytest.approx(colour, abs=1), (picture.mode, how)
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(folder/"a.jpg")
    (folder/"a.png").unlink()
    assert first(folder).getpixel((1, 1)) == pytest.approx((255, 0, 0), abs=3)


def test_canvas_own_pictures_of_sixteen_bits(tmp_path):
    levels = np.array([[0, 20_000], [32_768, 65_535]], np.uint16)
    assert np.asarray(first(folder_of(tmp_path, a__png=Image.fromarray(levels))))[..., 0] == pytest.approx(levels/257, abs=1)


def test_canvas_own_pictures_that_cannot_be_had(tmp_path):
    with pytest.raises(ValueError, match="no folder.*gone; give one with three to six"): load_pictures(tmp_path/"gone")
    (tmp_path/"notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match="no folder"): load_pictures(tmp_path/"notes.txt")
    with pytest.raises(ValueError, match="holds no picture; put PNG, JPEG or WebP"): load_pictures(tmp_path)
    drawn(0).save(tmp_path/"only.png")
    with pytest.warns(UserWarning, match="holds one picture"): assert len(load_pictures(tmp_path)) == 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_canvas_a_damaged_picture_is_named(tmp_path, suffix):
    folder = folder_of(tmp_path)
    bad = folder/f"bad.{suffix}"
    drawn(0, 64).save(bad)
    whole, rng = bad.read_bytes(), random.Random(0)
    assert len(load_pictures(folder)) == 2
    for data in (b"", b"no picture at all", *(whole[:n] for n in (4, 20, len(whole)//3, len(whole)*3//4))):
        bad.write_bytes(data)
        with pytest.raises(ValueError, match=f"bad.{suffix} cannot be read as a picture.*replace or remove it"): load_pictures(folder)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(3): data[rng.randrange(len(data))] = rng.randrange(256)
        bad.write_bytes(data)
        try: load_pictures(folder)
        except ValueError as e: assert f"bad.{suffix} cannot be read" in str(e)
