"What is refused before the first step: phrases beyond a context, sentences with other concepts, starts that do not fit."
import os

import pytest
import torch
from brat.toys import learn, pictures, pipeline, same

from tokenstudy import core
from tokenstudy.brat import pipelines
from tokenstudy.brat.concepts import Concept
from tokenstudy.brat.tokens import PlaceholderError
from tokenstudy.brat.start import rooms, writable
from tokenstudy.brat.strategies import Options
from tokenstudy.brat.inversion import Trainer, invert


def moved(pipe, **kw):
    "Slot → which rows a training moves."
    rows = {}
    with Trainer(pipe, pictures(), "<x>", "cat", Options(size=32, batch_size=2, orthogonality=0, jitter=0, **kw)) as trainer:
        start = {slot: r.detach().clone() for slot, r in trainer.rows.items()}
        for _ in range(2): trainer.step()
        for slot, r in trainer.rows.items(): rows[slot] = ((r.detach() - start[slot]).abs().amax(1) > 0).tolist()
    return rows


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_reported_a_phrase_beyond_the_context_is_refused_and_the_number_that_fits_is_right(family):
    "As many bonus tokens as the message says are all trained, in every encoder; one more is refused again."
    pipe, short = pipeline(family), ("a photo of a {}", "the {} in a photo")
    with pytest.raises(ValueError, match="the template 'a photo of a {}' leaves too little room for the 21 tokens of <x> in text_encoder.* 24 tokens.*8 bonus tokens fit: use num_bonus=8.*2 of 2 templates") as refused:
        moved(pipe, num_bonus=20, templates=short)
    number = int(str(refused.value).split("use num_bonus=")[1].split(",")[0])
    assert all(all(r) and len(r) == number + 1 for r in moved(pipe, num_bonus=number, templates=short).values())
    with pytest.raises(ValueError, match=f"use num_bonus={number}"): moved(pipe, num_bonus=number + 1, templates=short)
    with pytest.raises(ValueError, match="too little room"): learn(pipe, num_bonus=200)


@pytest.mark.parametrize("family", ["sd", "sd3"])
@pytest.mark.parametrize("strategy", ["tokens", "blocks", "negative"])
def test_reported_a_template_whose_placeholder_lies_beyond_the_context_is_named(family, strategy):
    with pytest.raises(ValueError, match="template 'a photo of the.* leaves too little room for the token of <x>.*not even the placeholder fits: use a shorter template .1 of 2"):
        learn(pipeline(family), num_bonus=0, strategy=strategy, blocks=3, templates=["a {}", "a photo of the " + "red "*20 + "{}"])


def test_reported_encoders_of_different_contexts_are_all_asked():
    "Flux reads 512 tokens with T5, and the short ones of CLIP decide."
    pipe = pipeline("flux")
    short = pipelines._clip_tokenizer(12)
    pipe.tokenizer, pipe.text_encoder, pipe.tokenizer_max_length = short, pipelines._clip(short, 16).eval(), 12
    with pytest.raises(ValueError, match="too little room for the 5 tokens of <x> in text_encoder, which reads 12 tokens.*2 bonus tokens fit"): learn(pipe, num_bonus=4, templates=["a photo of a {}"])
    with Trainer(pipe, pictures(), "<x>", "cat", Options(num_bonus=2, templates=("a photo of a {}",), size=32)) as trainer: assert rooms(trainer.bb, "<x>") == dict(text_encoder=12, text_encoder_2=512)


@pytest.mark.parametrize("family, room", [("pixart", 120), ("sana", 300)])
def test_reported_the_limit_of_a_pipeline_is_its_own_and_not_the_tokenizers(family, room):
    "Twenty bonus tokens are 41 pieces: too many for the toy tokenizer's 24, few for the pipeline's 120 or 300."
    assert all(map(all, moved(pipeline(family), num_bonus=20).values()))
    long = "a photo of " + "the red cat "*(room//3) + "{}"
    with pytest.raises(ValueError, match=f"not even the placeholder fits.*1 of 1|reads {room} tokens"): learn(pipeline(family), templates=[long])


def test_reported_a_name_that_the_pipeline_rewrites_is_refused():
    "PixArt writes prompts in small letters, so that a token with a capital would never be read."
    with pytest.raises(PlaceholderError, match="does not hand '<Cat>' to text_encoder as it is written"):
        invert(pipeline("pixart"), pictures(), "<Cat>", init_word="cat", num_steps=1, size=32, progress=False)


def test_reported_one_validation_prompt_is_one_picture():
    how = dict(validation_every=2, validation_options=dict(num_inference_steps=1))
    assert [v["prompt"] for v in learn(pipeline(), validation_prompts="a <x>", **how).validation] == ["a <x>"]
    with pytest.warns(UserWarning, match="validation_every is 0"): learn(pipeline(), num_steps=1, validation_prompts="a <x>")


# other concepts in templates

def with_another(strategy="tokens", **kw):
    pipe = pipeline()
    other = invert(pipe, pictures(), "<y>", init_word="dog", num_steps=1, batch_size=1, size=32, progress=False, strategy=strategy, blocks=2, **kw)
    other.apply(pipe)
    return pipe, other


def test_reported_other_concepts_in_templates_are_written_out():
    pipe, other = with_another(num_bonus=2)
    with Trainer(pipe, pictures(), "<x>", "cat", Options(templates=("a photo of {} and <y>", "a {}"), size=32, batch_size=4)) as trainer:
        texts = {text for _ in range(8) for text in trainer.prompts(trainer.draw())}
    assert texts == {"a photo of <x>,<x-bonus> and <y>,<y-bonus>,<y-bonus-2>", "a <x>,<x-bonus>"}
    by_hand = learn(pipe, templates=["a {} and <y>,<y-bonus>,<y-bonus-2>"])
    assert same(learn(pipe, templates=["a {} and <y>"]), by_hand) and not same(learn(pipe, templates=["a {} and dog"]), by_hand)


@pytest.mark.parametrize("strategy", ["blocks", "negative"])
def test_reported_concepts_that_no_template_can_hold_are_refused_by_name(strategy):
    pipe, other = with_another(strategy)
    with pytest.raises(ValueError, match=f"'a {{}} near <y>' holds <y>, which was learned with strategy '{strategy}'"): learn(pipe, templates=["a {} near <y>"])
    assert len(learn(pipe, templates=["a {} near a dog"]).history) == 2


def test_reported_placeholders_that_nobody_knows_are_said():
    with pytest.warns(UserWarning, match="'a {} and <y>' holds <y>, which is no token of this pipeline"): learn(pipeline(), num_steps=1, templates=["a {} and <y>"])
    with pytest.raises(ValueError, match="holds <x> itself; write {} where"): learn(pipeline(), templates=["a <x> and {}"])


# starts

@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
def test_reported_a_training_starts_where_another_stopped(family, tmp_path):
    "From a concept and from its folder, rows bit for bit; under another name, on another schedule."
    pipe = pipeline(family)
    first = learn(pipe, lr_schedule="cosine", lr=.05)
    folder = first.save(tmp_path/"x")
    for start in (first, folder, str(folder)):
        with Trainer(pipe, pictures(), "<z>", "no such word", Options(size=32, batch_size=2), start=start) as trainer:
            assert all(torch.equal(rows.detach(), first.embeddings[slot]) for slot, rows in trainer.rows.items())
    second = learn(pipe, start=folder, init_word="creatures", lr_schedule="linear", num_steps=3)
    assert len(second.history) == 3 and same(second, learn(pipe, start=first, init_word="dog", lr_schedule="linear", num_steps=3))
    assert same(first, learn(pipe, start=first, num_steps=1, lr=1e-30))


def test_reported_a_start_is_part_of_what_a_checkpoint_is_of(tmp_path):
    one, two = learn(pipeline()), learn(pipeline(), seed=1)
    learn(pipeline(), start=one, output_dir=tmp_path)
    assert same(learn(pipeline(), start=one, output_dir=tmp_path, num_steps=4), learn(pipeline(), start=one, num_steps=4))
    for other in (two, None):
        with pytest.raises(core.CheckpointError, match="start"): learn(pipeline(), start=other, output_dir=tmp_path)


def test_reported_a_word_for_each_token_and_the_ways_out_of_a_long_word():
    pipe = pipeline()
    with Trainer(pipe, pictures(), "<x>", ["red", "dog", "cat"], Options(num_bonus=2, jitter=0, size=32)) as trainer:
        table = pipe.text_encoder.get_input_embeddings().table.weight
        wanted = table[pipe.tokenizer.convert_tokens_to_ids(["red</w>", "dog</w>", "cat</w>"])]
        assert torch.equal(trainer.rows["text_encoder"].detach(), wanted)
    with Trainer(pipe, pictures(), "<x>", ["cat", "dog"], Options(strategy="negative", size=32)) as trainer:
        assert torch.equal(trainer.rows["text_encoder"].detach(), wanted[[2, 1]])
    for family in ("sd", "sana"):
        with pytest.raises(ValueError, match="axolotl.*Other ways to start: a list with one word for each of the 2 tokens, or start="): learn(pipeline(family), init_word="axolotl")


def concept(rows, tokens=2, **kw):
    names = ["<y>", *(f"<y-{i}>" for i in range(1, tokens))]
    return Concept("<y>", names, ",", kw.pop("strategy", "tokens"), rows, kw.pop("family", "sd"), {})


@pytest.mark.parametrize("start, word", [
    (3, "start is 3"), (True, "start is True"), (["a"], "start is"), ("nowhere", "no saved concept"), (concept(dict(text_encoder=torch.ones(3, 16)), 3), "has 3 tokens, and 2 are to be learned; use num_bonus=2"),
    (concept(dict(text_encoder=torch.ones(2, 17))), "rows are .*17.*16"), (concept(dict(text_encoder_2=torch.ones(2, 16))), "rows are .*text_encoder_2"), (concept(dict(text_encoder=torch.full((2, 16), float("nan")))), "not finite"),
    (concept(dict(text_encoder=torch.ones(2, 16)), family="pixart"), "family 'pixart'.*'sd'"), (concept(dict(text_encoder=torch.ones(2, 16)), strategy="negative"), "strategy is 'negative'")])
def test_bad_arguments_of_start(start, word):
    with pytest.raises(ValueError, match=word): learn(pipeline(), start=start)


@pytest.mark.parametrize("wrong, word", [
    (dict(init_word=None), "init_word"), (dict(init_word=""), "init_word"), (dict(init_word=3), "init_word"), (dict(init_word=["cat"]), "init_word.*each of the 2"), (dict(init_word=["cat", 3]), "init_word"), (dict(init_word=[]), "init_word"),
    (dict(validation_prompts=None), "validation_prompts"), (dict(validation_prompts=3), "validation_prompts"), (dict(validation_prompts=["a", None]), "validation_prompts"), (dict(validation_prompts=b"a <x>"), "validation_prompts"),
    (dict(validation_options=3), "validation_options"), (dict(validation_every=-1), "validation_every"), (dict(validation_every=1.5), "validation_every"), (dict(save_every=None), "save_every"),
    (dict(output_dir=3), "output_dir"), (dict(output_dir=""), "output_dir"), (dict(resume="yes"), "resume"), (dict(compile=1), "compile"), (dict(progress=None), "progress"), (dict(device="cudaa"), "cudaa"), (dict(device=-3.5), "device"),
    (dict(templates=None), "template"), (dict(templates=3), "template"), (dict(templates=[""]), "template"), (dict(lr=None), "lr is None"), (dict(gamma=None), "gamma is None"), (dict(strategy="negative", gamma=None), "gamma is None"),
    (dict(gamma=float("nan")), "gamma"), (dict(lr=True), "lr"), (dict(lr="1e-3"), "lr"), (dict(lr=10**400), "lr"), (dict(jitter=None), "jitter"), (dict(orthogonality=None), "orthogonality"), (dict(clip="1"), "clip"), (dict(clip=0), "clip"),
    (dict(num_bonus=10**9), "num_bonus"), (dict(num_bonus=None), "num_bonus"), (dict(blocks=10**9, strategy="blocks"), "blocks"), (dict(batch_size=float("inf")), "batch_size"), (dict(seed=2**70), "seed"), (dict(seed=None), "seed"),
    (dict(size=(32, 48)), r"size.*\(32, 48\)"), (dict(size=[32]), "size"), (dict(size=0), "size"), (dict(size="32"), "size"), (dict(size=float("nan")), "size"), (dict(flip="yes"), "flip"), (dict(cache_latents=None), "cache_latents"),
    (dict(fixed_norm=2), "fixed_norm"), (dict(gradient_checkpointing="on"), "gradient_checkpointing"), (dict(strategy=None), "strategy"), (dict(strategy=["tokens"]), "strategy"), (dict(mixed_precision=16), "mixed_precision"),
    (dict(lr_schedule=None), "lr_schedule"), (dict(lr_schedule="piecewise_constant"), "lr_schedule"), (dict(warmup=5), "warmup.*constant_with_warmup"), (dict(join=None), "join"), (dict(join=" a "), "join")],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "")
def test_bad_arguments_of_invert(wrong, word, monkeypatch):
    "A ValueError that names the argument, before anything is learned."
    monkeypatch.setattr(Trainer, "step", lambda self: pytest.fail("it learns"))
    with pytest.raises((ValueError, core.TokenStudyError), match=word): learn(pipeline(), **wrong)


@pytest.mark.parametrize("name", [None, 3, "", "a b", "cat", b"<x>", ["<x>"]])
def test_bad_arguments_placeholders(name):
    with pytest.raises(PlaceholderError, match="placeholder"): invert(pipeline(), pictures(), name, init_word="cat", num_steps=1, progress=False)


def test_bad_arguments_of_options_numpy_numbers_are_numbers():
    import numpy as np
    found = Options(num_bonus=np.int64(2), lr=np.float32(.5), flip=np.bool_(True), seed=np.uint8(3), templates=(t for t in ["a {}"]))
    assert (found.num_bonus, found.lr, found.flip, found.seed, found.templates) == (2, .5, True, 3, ("a {}",)) and type(found.num_bonus) is int


def test_bad_arguments_places_that_cannot_be_written(tmp_path):
    (tmp_path/"file").write_text("x")
    for place in (tmp_path/"file", tmp_path/"file"/"below"):
        with pytest.raises(core.TokenStudyError, match="file is a file"): learn(pipeline(), output_dir=place)
    (tmp_path/"closed").mkdir(mode=0o500)
    if os.geteuid():
        with pytest.raises(core.TokenStudyError, match="cannot be written"): learn(pipeline(), output_dir=tmp_path/"closed"/"run")
    assert writable(tmp_path/"a"/"b") == tmp_path/"a"/"b" and not (tmp_path/"a").exists()
