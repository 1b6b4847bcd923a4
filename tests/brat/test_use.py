"Concepts in use: several at once, in every prompt, too long, taken away, in other formats, on other pipelines."
import contextlib
import dataclasses
import inspect
import json
import warnings

import pytest
import torch
from brat.toys import FAMILIES, SMALL, changes as all_changes, picture, pictures, pipeline, seeded, whole_state

from tokenstudy.brat import tokens
from tokenstudy.brat.backbones import adapter_class, backbone, backbone_class
from tokenstudy.brat.concepts import Concept, load, with_textual_inversion
from tokenstudy.brat.drawing import concepts_of, expand_prompt, write_out
from tokenstudy.brat.inversion import invert
from tokenstudy.brat.pipelines import UnsupportedPipelineError
from tokenstudy.brat.strategies import Options, token_names
from tokenstudy.brat.tokens import PlaceholderError, check_placeholder


def made(family="sd", name="<x>", bonus=1, seed=0, join=",", strategy="tokens", **settings):
    "A concept with random rows."
    encoders = adapter_class(pipe := pipeline(family))(pipe).encoders
    names = token_names(name, Options(num_bonus=bonus, blocks=bonus + 1, strategy=strategy))
    g = torch.Generator().manual_seed(seed)
    rows = {slot: torch.randn(len(names), e.get_input_embeddings().embedding_dim, generator=g) for slot, (_, e) in encoders.items()}
    return Concept(name, names, join, strategy, rows, family, dict(size=32) | settings)


def drawn(pipe, prompt, **kw):
    "A plain call of the pipeline."
    how = dict(height=32, width=32) | adapter_class(pipe).call_options | SMALL | dict(generator=seeded()) | kw
    return torch.as_tensor(pipe(prompt, **how).images)


def changes(before, after):
    "What differs, but for the scheduler's times, which drawing sets."
    return [name for name in all_changes(before, after) if name != "times"]


def inside(pipe):
    "All of the tokenizers, but for how they were last called to cut and pad, and the sizes that configurations tell."
    found = {k: json.loads(t._tokenizer.to_str()) | dict(truncation=None, padding=None) for k, t in vars(pipe).items() if hasattr(t, "get_vocab")}
    return found, {k: m.config.vocab_size for k, m in vars(pipe).items() if k.startswith("text_encoder")}


@contextlib.contextmanager
def quiet():
    "Our warnings are errors."
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        yield


# several concepts, in all prompts

@pytest.mark.parametrize("family", ["sd", "pixart"])
def test_reported_several_concepts_in_one_prompt_are_all_whole(family):
    x, y, z = made(family), made(family, "<y>", 2, 1, " "), made(family, "<yz>", 0, 2)
    pipe = pipeline(family)
    for concept in (x, y, z): concept.apply(pipe)
    text, whole = "a <yz> in <x> , <y> of <X>", "a <yz> in <x>,<x-bonus> , <y> <y-bonus> <y-bonus-2> of <x>,<x-bonus>"
    assert write_out([text]*2, iter([x, y, z])) == [whole]*2
    assert write_out(text, [x, y, z]) == write_out(text, [z, y, x]) == expand_prompt(pipe, text) == whole
    expected = drawn(pipe, whole)
    with quiet():
        for concept in (x, y, z): assert torch.equal(picture(pipe, concept, text), expected)
        assert torch.equal(picture(with_textual_inversion(pipe), prompt=text), expected)
    two = ["a <x>, <x-bonus>", "the dog"] # written out already, in another spelling; and without
    noise = lambda: [seeded(0), seeded(1)]
    with pytest.warns(UserWarning, match="'the dog' does not hold <x>"): found = picture(pipe, x, two, generator=noise())
    assert torch.equal(found, drawn(pipe, ["a <x>,<x-bonus>", "the dog"], generator=noise()))


@pytest.mark.parametrize("family, more", [
    ("sd", dict(negative_prompt="red <y>")), ("sana", dict(negative_prompt="<X>, <y>")),
    ("sdxl", dict(prompt_2="the <y>", negative_prompt="<y>", negative_prompt_2="red <x>")),
    ("sd3", dict(prompt_2="<y>", prompt_3="<X> in red", negative_prompt_3="<y>")),
    ("flux", dict(prompt_2="the <y>", negative_prompt="<x>", negative_prompt_2="<y>", true_cfg_scale=3.))])
def test_reported_every_prompt_of_a_call_is_written_out(family, more):
    x, y, pipe = made(family), made(family, "<y>", 1, 1, " "), pipeline(family)
    for concept in (x, y): concept.apply(pipe)
    whole = {k: write_out(v, [x, y]) if isinstance(v, str) else v for k, v in more.items()}
    expected = drawn(pipe, "a <x>,<x-bonus>", **whole)
    with quiet():
        assert torch.equal(picture(pipe, x, "a <x>", **more), expected)
        assert torch.equal(picture(pipe, y, "a <x>", **more), expected)
        assert torch.equal(drawn(with_textual_inversion(pipe), "a <x>", **more), expected)
    assert not torch.equal(drawn(pipe, "a <x>", **more), expected)


def test_reported_concepts_of_all_strategies_share_a_prompt():
    "Each is drawn by its own strategy, whichever of them is asked to draw."
    x, b = made(), made(name="<b>", bonus=2, seed=1, strategy="blocks")
    n, pipe = made(name="<n>", seed=2, strategy="negative"), pipeline()
    for concept in (x, b, n): concept.apply(pipe)
    text = "a <x> and <b>"
    assert torch.equal(picture(pipe, x, text), picture(pipe, b, text)) and not torch.equal(picture(pipe, x, text), drawn(pipe, "a <x>,<x-bonus> and <b>"))
    same = dataclasses.replace(b, embeddings={k: v[:1].repeat(3, 1) for k, v in b.embeddings.items()})
    fresh = x.apply(pipeline())
    assert torch.allclose(picture(fresh, same, text), drawn(fresh, "a <x>,<x-bonus> and <b>"), atol=1e-5)
    text = "a <x> of <n>"
    expected = drawn(pipe, "a <x>,<x-bonus> of <n>", negative_prompt="red, <n-negative>")
    assert torch.equal(picture(pipe, x, text, negative_prompt="red"), expected) and torch.equal(picture(pipe, n, text, negative_prompt="red"), expected)
    for concept in (b, n):
        with pytest.warns(UserWarning, match="use Concept.generate"): drawn(with_textual_inversion(pipe), f"a {concept.placeholder}")
    with pytest.raises(ValueError, match="leave out prompt_2"): picture(pipeline("sdxl"), made("sdxl", strategy="blocks"), prompt_2="<x>")


def test_reported_weighting_by_compel_means_what_the_pipeline_means():
    x, y, pipe = made(), made(name="<y>", seed=1), pipeline()
    for concept in (x, y): concept.apply(pipe)
    assert expand_prompt(pipe, ["(<x>)1.3 and <y>", "(<X>)++"]) == ["(<x>,<x-bonus>)1.3 and <y>,<y-bonus>", "(<x>,<x-bonus>)++"]
    compel = pytest.importorskip("compel")
    encode = compel.Compel(tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder, truncate_long_prompts=True)
    with torch.no_grad(): found = encode(expand_prompt(pipe, "a <x> and <y>"))
    assert torch.equal(found, pipe.encode_prompt(x.expand(y.expand("a <x> and <y>")), "cpu", 1, False)[0])


@pytest.mark.parametrize("prompt", [None, 3, b"a <x>", ["a <x>", None], [["a <x>"], 2.]])
def test_bad_arguments_for_prompts_are_named(prompt):
    with pytest.raises(TypeError, match="a prompt is .*; it must be a text or a list of them"): made().generate(pipeline(), prompt)
    with pytest.raises(TypeError, match="a prompt is"): made().expand(prompt)


# what does not fit

@pytest.mark.parametrize("family", FAMILIES)
def test_reported_a_prompt_whose_token_is_cut_off_is_refused(family):
    concept, pipe = made(family), pipeline(family)
    concept.apply(pipe)
    own = {slot: t.num_special_tokens_to_add() for slot, (t, _) in adapter_class(pipe)(pipe).encoders.items()}
    # every pipeline reads as much as its shortest encoder; the toys' have 24 tokens, T5's and Gemma's may be told to read more
    room = 24 - max(own.values()) if family not in ("pixart", "sana") else 8 - own["text_encoder"]
    limit = dict(max_sequence_length=8) if family in ("pixart", "sana") else dict()
    fits = "cat " * (room - 3) + "<x>"
    assert picture(pipe, concept, fits, **limit).isfinite().all()
    for text, lost in (("cat " + fits, "<x-bonus> does not fit"), ("cat " * 40 + "<x>", "<x>, <x-bonus> does not fit")):
        with pytest.raises(PlaceholderError, match=rf"{lost} into the text_encoder\w*'s context: it reads {room} tokens, and the prompt has \d+; take \d+ away"):
            picture(pipe, concept, text, **limit)
        with pytest.raises(PlaceholderError, match=lost): drawn(with_textual_inversion(pipe), [text], **limit)
    with pytest.raises(PlaceholderError, match="take 1 away"): picture(pipe, concept, ["<x>", "cat " + fits], generator=[seeded(), seeded()], **limit)
    assert drawn(pipe, "cat " * 40, **limit).isfinite().all() # without a concept it is diffusers' own affair


def test_reported_a_negative_prompt_whose_token_is_cut_off_is_refused():
    x, pipe = made(), pipeline()
    with pytest.raises(PlaceholderError, match="<x-bonus> does not fit"): picture(pipe, x, "a <x>", negative_prompt="red " * 20 + "<x>")
    many = made(bonus=20)
    with pytest.raises(PlaceholderError, match="<x-bonus-11>, <x-bonus-12>.* reads 22 tokens, and the prompt has 41; take 19 away"): picture(pipeline(), many, "<x>")
    able = with_textual_inversion(x.apply(pipe))
    with pytest.raises(PlaceholderError, match="<x-bonus> does not fit"): drawn(able, "a <x>", negative_prompt="red " * 20 + "<x>")
    assert type(able.tokenizer) is type(pipeline().tokenizer) and able.tokenizer is pipe.tokenizer


def test_reported_a_prompt_without_the_placeholder_is_noticed():
    x, pipe = made(), pipeline()
    with pytest.warns(UserWarning, match=r"'a dog' does not hold <x>.*drawn as <x>,<x-bonus>"): found = picture(pipe, x, "a dog")
    assert torch.equal(found, drawn(pipe, "a dog"))
    with quiet():
        picture(pipe, x, "a dog", negative_prompt="<X>")
        picture(pipe, x, "a <x-bonus>")


# taking away

@pytest.mark.parametrize("family", FAMILIES)
def test_reported_removing_restores_all_bit_for_bit(family):
    pipe, x, y = pipeline(family), made(family), made(family, "<y>", 0, 1)
    before, inner, random = whole_state(pipe), inside(pipe), torch.get_rng_state()
    x.apply(pipe)
    y.apply(pipe)
    assert torch.equal(torch.get_rng_state(), random) # nobody's random numbers were used up
    alone = drawn(y.apply(pipeline(family)), "a <y>")
    assert x.remove(pipe) is pipe and list(concepts_of(pipe)) == ["<y>"] and not any("<x" in name for name in pipe.tokenizer.get_vocab())
    assert torch.equal(picture(pipe, y, "a <y>"), alone)
    assert torch.equal(picture(pipe, x), picture(pipeline(family), x)) # and back again, behind the other
    y.remove(pipe)
    assert torch.equal(picture(pipe, x), picture(pipeline(family), x))
    x.remove(pipe)
    assert changes(before, whole_state(pipe)) == [] and inside(pipe) == inner
    assert not any(key.startswith("_concepts") or key.startswith("_before") or key.startswith("_installed") for part in vars(pipe).values() for key in getattr(part, "__dict__", {}))
    with pytest.raises(PlaceholderError, match="<x> is not in this .*Pipeline; nothing to remove"): x.remove(pipe)


def test_reported_removing_refuses_another_concept_of_the_name():
    pipe, x = pipeline(), made()
    x.apply(pipe)
    state = whole_state(pipe)
    with pytest.raises(PlaceholderError, match="not in this pipeline as it was learned"): made(seed=1).remove(pipe)
    assert changes(state, whole_state(pipe)) == [] and torch.equal(picture(pipe, x), picture(pipeline(), x))


def test_reported_a_table_with_spare_rows_gets_them_back():
    "T5's table is longer than its vocabulary: new tokens overwrite rows."
    for family in ("pixart", "sd3"):
        pipe, x = pipeline(family), made(family, bonus=2)
        slot = list(x.embeddings)[-1]
        old = getattr(pipe, slot).get_input_embeddings().weight.detach().clone()
        assert len(old) > len(getattr(pipe, slot.replace("text_encoder", "tokenizer")))
        x.apply(pipe)
        assert not torch.equal(getattr(pipe, slot).get_input_embeddings().weight[:len(old)], old)
        pipe.to(torch.bfloat16)
        x.remove(pipe.to(torch.float32))
        assert torch.allclose(getattr(pipe, slot).get_input_embeddings().weight, old.bfloat16().float(), rtol=1e-2) and getattr(pipe, slot).get_input_embeddings().num_embeddings == len(old)


def embedded(pipe, text, **kw):
    "What a call is given by those who encode prompts themselves."
    names, found = list(inspect.signature(pipe.encode_prompt).parameters), pipe.encode_prompt(text, **kw)
    masks = "prompt_attention_mask" in names
    return dict(zip(("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask") if masks else
                    ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"), found))


@pytest.mark.parametrize("family, how", [("sd", dict(device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)), ("sdxl", {}), ("pixart", {}), ("sana", {})])
def test_reported_a_pipeline_that_expands_takes_embeddings_as_before(family, how):
    pipe = pipeline(family)
    given = embedded(pipe, "a cat", **how) | (dict(negative_prompt=None) if family in ("pixart", "sana") else {})
    assert torch.equal(drawn(with_textual_inversion(pipe), None, **given), drawn(pipe, None, **given))


@pytest.mark.parametrize("gone", [None, "<x>", "<x-bonus>"])
def test_reported_unloading_by_diffusers_leaves_nothing_half(gone):
    x, y, pipe = made(), made(name="<y>", bonus=2, seed=1), pipeline()
    able = with_textual_inversion(pipe)
    for concept in (x, y): concept.apply(pipe)
    both = drawn(able, "a <x> of <y>")
    pipe.unload_textual_inversion(gone)
    assert list(concepts_of(pipe)) == ([] if gone is None else ["<y>"])
    with pytest.warns(UserWarning, match="<x> was taken out of this pipeline"): drawn(able, "a <x>")
    if gone: assert torch.equal(drawn(able, "a <y>"), drawn(y.apply(pipeline()), y.expand("a <y>")))
    for concept in (x, y): concept.apply(pipe)
    with quiet(): assert torch.equal(drawn(able, "a <x> of <y>"), both) and torch.equal(picture(pipe, y, "a <x> of <y>"), both)


@pytest.mark.parametrize("family", ["sd", "sdxl", "pixart", "sana"])
def test_reported_the_wrapper_unloads_from_all_encoders(family, tmp_path):
    able, x, y = with_textual_inversion(pipeline(family)), made(family), made(family, "<y>", 2, 1)
    before = whole_state(able)
    for concept, name in ((x, "x"), (y, "y")): able.load_textual_inversion(concept.save(tmp_path/name))
    able.unload_textual_inversion("<y-bonus>")
    with quiet(): assert list(concepts_of(able)) == ["<x>"] and torch.equal(drawn(able, "a <x>"), picture(pipeline(family), x, "a <x>"))
    with pytest.raises(ValueError, match="no concept '<z>' to unload; there are <x>"): able.unload_textual_inversion("<z>")
    able.load_textual_inversion(torch.ones(2, 16), token="<f>")
    second = "<f>_1" if family in ("sd", "sdxl") else "<f-2>" # diffusers' own loader, or ours where it has none
    assert second in able.tokenizer.get_vocab()
    able.unload_textual_inversion(["<f>"])
    assert "<f>" not in able.tokenizer.get_vocab() and second not in able.tokenizer.get_vocab() and "<x>" in able.tokenizer.get_vocab()
    able.unload_textual_inversion()
    assert set(changes(before, whole_state(able))) <= {"others"} # the wrapper's own list of names
    with pytest.raises(ValueError, match="to unload; there are none"): able.unload_textual_inversion()


# formats, pipelines, families

@pytest.mark.parametrize("way", [
    [torch.bfloat16, torch.float32], [torch.float16, torch.float32], [torch.float16], [torch.bfloat16, torch.float16, torch.float32], [torch.float16, torch.bfloat16]])
def test_reported_a_concept_survives_other_formats(way):
    for start in (torch.float32, torch.bfloat16):
        pipe, x = pipeline().to(start), made()
        x.apply(pipe)
        for dtype in way: pipe.to(dtype)
        assert x.apply(pipe) is pipe
        rows = pipe.text_encoder.get_input_embeddings().weight[pipe.tokenizer.convert_tokens_to_ids(x.tokens)]
        assert torch.equal(rows, x.embeddings["text_encoder"].to(way[-1])) # the exact rows, rounded once
        with pytest.raises(PlaceholderError, match="as it was learned"): dataclasses.replace(x, embeddings={k: v*1.02 for k, v in x.embeddings.items()}).apply(pipe)
    if way[-1] == torch.float32: assert picture(pipe, x).isfinite().all()


def relatives(pipe):
    "Pipelines that draw from pictures or controls, with the parts of a text-to-image pipeline."
    import diffusers as d
    family, parts = adapter_class(pipe).family, {k: v for k, v in pipe.components.items() if k not in ("feature_extractor", "image_encoder", "safety_checker")}
    if family == "sd":
        parts |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        return [d.StableDiffusionImg2ImgPipeline(**parts), d.StableDiffusionInpaintPipeline(**parts),
                d.StableDiffusionControlNetPipeline(controlnet=d.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8)), **parts)]
    if family == "sdxl": return [d.StableDiffusionXLImg2ImgPipeline(**parts, add_watermarker=False), d.StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False)]
    if family == "sd3": return [d.StableDiffusion3Img2ImgPipeline(**parts)]
    return [d.FluxImg2ImgPipeline(**parts)]


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_reported_pipelines_that_start_from_pictures_draw_with_concepts(family, tmp_path):
    x = made(family)
    folder = x.save(tmp_path/"x")
    for pipe in relatives(pipeline(family)):
        pipe.set_progress_bar_config(disable=True)
        how = dict(image=torch.rand(1, 3, 48, 48, generator=seeded(3)), num_inference_steps=2, output_type="pt")
        if "Inpaint" in type(pipe).__name__: how |= dict(mask_image=torch.ones(1, 1, 48, 48))
        if "Control" not in type(pipe).__name__: how |= dict(strength=1. if "Inpaint" in type(pipe).__name__ else .9)
        if family == "flux": how |= dict(height=32, width=32)
        load(pipe, folder)
        found = x.generate(pipe, "a <x>", generator=seeded(), **how)
        assert torch.equal(found, pipe(x.expand("a <x>"), generator=seeded(), **how).images)
        assert torch.equal(found, with_textual_inversion(pipe)("a <x>", generator=seeded(), **how).images)
        base = {"sd": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline", "sd3": "StableDiffusion3Pipeline", "flux": "FluxPipeline"}[family]
        with pytest.raises(UnsupportedPipelineError, match=rf"can draw with a concept but not learn one; learn it with the text-to-image pipeline {base}.from_pipe"):
            invert(pipe, pictures(), "<z>", init_word="cat", num_steps=1)
        import diffusers
        assert backbone_class(getattr(diffusers, base).from_pipe(pipe)).family == family
        x.remove(pipe)


def test_reported_pipelines_made_from_each_other_share_their_concepts():
    import diffusers as d
    pipe, x = pipeline(), made()
    able = with_textual_inversion(pipe)
    x.apply(pipe) # after the twin was made
    assert torch.equal(drawn(able, "a <x>"), picture(pipe, x, "a <x>"))
    other = with_textual_inversion(d.StableDiffusionPipeline(**{**pipe.components, "scheduler": pipeline().scheduler}, requires_safety_checker=False))
    other.set_progress_bar_config(disable=True)
    assert torch.equal(drawn(other, "a <x>"), picture(pipe, x, "a <x>"))
    x.remove(other)
    assert concepts_of(pipe) == {}


def test_reported_only_encoders_are_needed_to_apply():
    pipe, x = pipeline(), made()
    for name in ("unet", "vae", "scheduler"): setattr(pipe, name, None)
    x.apply(pipe)
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[-2:], x.embeddings["text_encoder"])
    with pytest.raises(UnsupportedPipelineError, match="without its unet"): backbone(pipe)


@pytest.mark.parametrize("learned, used", [("sd3", "sdxl"), ("flux", "sd"), ("sdxl", "sd"), ("pixart", "sana"), ("sana", "pixart"), ("sd", "pixart")])
def test_reported_another_family_is_refused_though_widths_agree(learned, used, tmp_path):
    x, pipe = made(learned), pipeline(used)
    state = whole_state(pipe)
    for call in (lambda: x.apply(pipe), lambda: x.generate(pipe, "<x>"), lambda: load(pipe, x.save(tmp_path/"x")), lambda: x.remove(pipe)):
        with pytest.raises(ValueError, match=f"learned for the family '{learned}', and this \\w+ is of the family '{used}'"): call()
    assert changes(state, whole_state(pipe)) == []
    with pytest.raises(UnsupportedPipelineError, match="DummyPipeline is not supported"): x.apply(type("DummyPipeline", (), {})())


def test_reported_another_base_of_the_family_is_noticed(tmp_path):
    x = made().remember(backbone(pipeline()))
    folder = x.save(tmp_path/"x")
    with quiet():
        for same in (pipeline(), pipeline().to(torch.bfloat16), pipeline().to(torch.float16), *relatives(pipeline())[:1]): load(same, folder)
        changed = pipeline(prediction_type="v_prediction") # another scheduler, the same weights
        x.apply(made(name="<y>").apply(changed))
    other = pipeline(seed=1)
    with pytest.warns(UserWarning, match="<x> was learned on another base of the family 'sd'"): x.apply(other)
    with quiet(): x.generate(other, "<x>", **SMALL) # said once
    tuned = pipeline()
    with torch.no_grad():
        for p in tuned.unet.parameters(): p.mul_(1.1)
    with pytest.warns(UserWarning, match="another base"): x.apply(tuned)


# names

def test_reported_case_does_not_matter():
    pipe, x = pipeline(), made(name="<My-Toy>")
    x.apply(pipe)
    assert x.expand(["<my-toy>", "<MY-TOY>,<my-toy-BONUS>", "<My-Toy>s"]) == ["<My-Toy>,<My-Toy-bonus>"] * 2 + ["<My-Toy>,<My-Toy-bonus>s"]
    with quiet(): assert torch.equal(picture(pipe, x, "a <my-toy>"), picture(pipe, x, "a <My-Toy>"))
    assert torch.equal(drawn(pipe, "a <my-toy>,<my-toy-bonus>"), picture(pipe, x, "a <My-Toy>")) # CLIP reads both alike


@pytest.mark.parametrize("name, bonus", [
    ("<猫>", "<猫-bonus>"), ("<кот>", "<кот-bonus>"), ("«é»", "«é-bonus»"), ("[कि]", "[कि-bonus]"), ("<x_>", "<x-bonus_>"), ("*", "-bonus*"), ("<a1>>", "<a1-bonus>>")])
def test_reported_placeholders_of_all_scripts_get_their_bonus(name, bonus, tmp_path):
    assert token_names(name, Options())[1] == bonus
    for family in ("sd", "pixart"):
        pipe = pipeline(family)
        if name in pipe.tokenizer.get_vocab(): continue # a character of the toy's alphabet
        x = made(family, name)
        folder = x.save(tmp_path/family)
        again = load(pipe, folder)
        assert again.tokens == [name, bonus] and again.expand(f"a {name.upper()}") == f"a {name},{bonus}"
        with quiet(): assert torch.equal(picture(pipe, x, f"a {name}"), drawn(pipe, f"a {name},{bonus}"))
        assert len(list(folder.glob("*.safetensors"))) == 2 + (again._together() is not None)


def test_reported_accents_are_found_in_both_spellings():
    x = made(name="<é>")
    assert x.expand(["a <é>", "a <e\u0301>"]) == ["a <é>,<é-bonus>"] * 2


@pytest.mark.parametrize("name", ["<x\0>", "<\u202ex>", "<x\u200b>", "<x\u2069>", "<\ufeffx>", "<x\x1b[31m>", "<\u3164>", "<x\ufe0f>", "<\ud800>", "<\ue000>", "<a\u2800b>", "<x\U000e0041>"])
def test_bad_arguments_hidden_characters_in_placeholders_are_refused(name):
    pipe = pipeline()
    state = whole_state(pipe)
    with pytest.raises(PlaceholderError, match="a character that cannot be seen or typed; use a name such as <") as error: check_placeholder(pipe.tokenizer, name)
    assert str(error.value).isascii() or error.value.args[0].isprintable()
    with pytest.raises(PlaceholderError, match="cannot be seen"): dataclasses.replace(made(bonus=0), placeholder=name, tokens=[name]).apply(pipe)
    assert changes(state, whole_state(pipe)) == []


# shared and changed parts

@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_reported_one_tokenizer_in_two_slots(family):
    x, shared = made(family), pipeline(family)
    shared.tokenizer_2 = shared.tokenizer
    before = whole_state(shared)
    assert torch.equal(picture(shared, x), picture(pipeline(family), x))
    for slot, rows in x.embeddings.items():
        table, reader = getattr(shared, slot).get_input_embeddings().weight, getattr(shared, slot.replace("text_encoder", "tokenizer"))
        assert torch.equal(table[reader.convert_tokens_to_ids(x.tokens)], rows)
    x.remove(shared)
    assert changes(before, whole_state(shared)) == []


def test_reported_one_tokenizer_in_two_pipelines():
    for family in ("sd", "pixart"): # the second's table has room already
        x, one, two = made(family), pipeline(family), pipeline(family, seed=1)
        two.tokenizer = one.tokenizer
        expected = picture(pipeline(family, seed=1), x)
        x.apply(one)
        assert torch.equal(picture(two, x), expected)


def test_reported_an_error_on_the_way_leaves_nothing_changed(monkeypatch):
    for error in (MemoryError("no room"), KeyboardInterrupt()):
        pipe, x = pipeline("sd3"), made("sd3")
        made("sd3", "<y>", seed=1).apply(pipe)
        state = whole_state(pipe)
        def fail(encoder, size, whole=tokens._resize):
            if encoder is pipe.text_encoder_2 and size > 234: raise error
            whole(encoder, size)
        monkeypatch.setattr(tokens, "_resize", fail)
        with pytest.raises(type(error)): x.apply(pipe)
        monkeypatch.undo()
        assert changes(state, whole_state(pipe)) == [] and list(concepts_of(pipe)) == ["<y>"]
        assert torch.equal(picture(pipe, x), picture(pipeline("sd3"), x))


def test_reported_an_adapter_on_the_token_table_is_named():
    from peft import LoraConfig
    x, pipe = made(), pipeline()
    pipe.text_encoder.add_adapter(LoraConfig(r=2, target_modules=["token_embedding", "q_proj"]))
    state = pipe.tokenizer.get_vocab()
    for call in (lambda: x.apply(pipe), lambda: invert(pipe, pictures(), "<x>", init_word="cat", num_steps=1, size=32, progress=False)):
        with pytest.raises(UnsupportedPipelineError, match="the token embedding of this CLIPTextModel is a Embedding, .*fuse_lora"): call()
    assert pipe.tokenizer.get_vocab() == state
    other = pipeline()
    other.text_encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    with quiet(): made().remember(backbone(pipeline())).apply(other)


def test_reported_offloaded_weights_are_named():
    pipe = pipeline()
    pipe.text_encoder.to("meta")
    with pytest.raises(UnsupportedPipelineError, match="offloaded.*before pipeline.enable_sequential_cpu_offload"): made().apply(pipe)
    assert "<x>" not in pipe.tokenizer.get_vocab()
