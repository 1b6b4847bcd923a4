"Learned concepts in files, in plain diffusers, and in drawing."
import dataclasses
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, strategies as st
from torch.nn import functional as F
from brat.toys import FAMILIES, pictures, pipeline, learn, seeded, picture, whole_state, changes

from tokenstudy import core
from tokenstudy.brat.tokens import PlaceholderError
from tokenstudy.brat.backbones import backbone
from tokenstudy.brat.concepts import load, Concept, load_concept, with_textual_inversion
from tokenstudy.brat.strategies import Options
from tokenstudy.brat.inversion import Trainer


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
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "learned_embeds.safetensors", "manifest.json", "x-bonus.safetensors", "x.safetensors"]
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
                for slot, key in dict(sdxl=dict(text_encoder="clip_l", text_encoder_2="clip_g"), flux=dict(text_encoder="clip_l", text_encoder_2="t5xxl"))[family].items():
                    theirs.load_textual_inversion(rows[key], token=token, text_encoder=getattr(theirs, slot), tokenizer=getattr(theirs, slot.replace("text_encoder", "tokenizer")))
        for slot, rows in concept.embeddings.items():
            ids = getattr(theirs, slot.replace("text_encoder", "tokenizer")).convert_tokens_to_ids(concept.tokens)
            assert torch.equal(getattr(theirs, slot).get_input_embeddings().weight[ids], rows)
        assert torch.equal(picture(theirs, prompt="a photo of <x>,<x-bonus>"), picture(ours, concept))


def test_exported_file_is_a_multi_vector_for_diffusers(concepts, tmp_path):
    concept, _ = concepts["sd"]
    pipe = pipeline()
    pipe.load_textual_inversion(str(concept.export(tmp_path/"x.safetensors")))
    assert pipe.maybe_convert_prompt("a <x>", pipe.tokenizer) == "a <x> <x>_1 <x>_2" # the comma is one of the rows
    assert torch.equal(picture(pipe), picture(pipeline(), concept))
    spaced, pipe = dataclasses.replace(concept, join=" "), pipeline()
    pipe.load_textual_inversion(str(spaced.export(tmp_path/"spaced.safetensors")))
    assert torch.equal(picture(pipe), picture(pipeline(), spaced)) and not torch.equal(picture(pipe), picture(pipeline(), concept))
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
    assert torch.equal(picture(able), picture(pipeline("pixart"), concept))


def test_apply_is_idempotent_and_refuses_what_differs(concepts):
    concept, _ = concepts["sdxl"]
    pipe = pipeline("sdxl")
    for _ in range(2): concept.apply(pipe)
    assert len(pipe.tokenizer) == len(pipeline("sdxl").tokenizer) + 2
    state = whole_state(pipe)
    other = dataclasses.replace(concept, embeddings={slot: rows + (slot == "text_encoder_2") for slot, rows in concept.embeddings.items()})
    with pytest.raises(PlaceholderError, match="not in this pipeline as it was learned"): other.apply(pipe)
    wide = dataclasses.replace(concept, tokens=["<y>", "<z>"], placeholder="<y>", embeddings=concept.embeddings | dict(text_encoder_2=torch.zeros(2, 9)))
    with pytest.raises(ValueError, match="width 9, the CLIPTextModelWithProjection of this pipeline 16"): wide.apply(pipe)
    with pytest.raises(ValueError, match="also has a text_encoder_2"): dataclasses.replace(concept, embeddings=dict(text_encoder=torch.zeros(2, 16))).apply(pipeline("sdxl"))
    assert changes(state, whole_state(pipe)) == []
    with pytest.raises(PlaceholderError, match="already known"): learn(pipe)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_switch_the_prompt_by_the_time(family):
    pipe = pipeline(family)
    concept = learn(pipe, strategy="blocks", blocks=3, lr=.5)
    concept.apply(pipe)
    bb, heard = backbone(pipe, 32), []
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
