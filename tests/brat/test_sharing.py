"What a saved concept is for other tools and other people, and what theirs are for us."
import dataclasses
import json
import os
import re

import pytest
import torch
from brat.test_use import drawn, made, quiet
from brat.toys import SMALL, changes, learn, picture, pipeline, seeded, whole_state
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

from tokenstudy import core
from tokenstudy.brat.backbones import BACKBONES, adapter_class, backbone
from tokenstudy.brat.concepts import Concept, load, load_concept, read_embedding, with_textual_inversion
from tokenstudy.brat.tokens import PlaceholderError


def known(family="sd", **kw):
    "A concept that knows what its base reads between the tokens."
    return made(family, **kw).remember(backbone(pipeline(family)))


def blocks_of(card):
    "The Python in a folder's README.md, the part for tokenstudy first."
    return re.findall(r"```python\n(.*?)\n```", card, re.S)


# what other tools read

@pytest.mark.parametrize("bonus, join", [(0, ","), (1, ","), (2, ", "), (2, " "), (1, " ."), (3, ";"), (1, "+ /")])
def test_reported_plain_diffusers_loads_the_folder_of_one_encoder(bonus, join, tmp_path):
    x = known(bonus=bonus, join=join)
    folder, plain = x.save(tmp_path/"x"), pipeline()
    plain.load_textual_inversion(str(folder))
    names = ["<x>"] + [f"<x>_{i}" for i in range(1, len(load_file(folder/"learned_embeds.safetensors")["<x>"]))]
    rows = plain.text_encoder.get_input_embeddings().weight[plain.tokenizer.convert_tokens_to_ids(names)]
    step = (len(names) - 1)//bonus if bonus else 1
    assert torch.equal(rows[::step], x.embeddings["text_encoder"])
    assert torch.equal(drawn(plain, "a photo of <x>"), picture(pipeline(), x))
    again = load_concept(folder)
    assert torch.equal(picture(pipeline(), again), picture(pipeline(), x)) and torch.equal(load_file(again.export(tmp_path/"e.safetensors"))["<x>"], rows)


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
@pytest.mark.parametrize("strategy", ["tokens", "negative"])
def test_reported_the_calls_in_the_readme_work(family, strategy, tmp_path):
    "What a receiver is told to run, run as it stands, with plain diffusers where that can do it."
    for number, x in enumerate([known(family, bonus=2, strategy=strategy), made(family, strategy=strategy)]):
        folder, expected = x.save(tmp_path/f"{number}"), picture(pipeline(family), x)
        ours, *theirs = blocks_of((folder/"README.md").read_text("utf-8"))
        how = lambda: dict(height=32, width=32, generator=seeded()) | SMALL
        class Pipe: # gives every call the same size and noise
            def __init__(self, pipe): self.__dict__["pipe"] = pipe
            def __getattr__(self, name): return getattr(self.pipe, name)
            def __call__(self, prompt): return self.pipe(prompt, **how()).images
        scope = dict(pipe=pipeline(family), folder=str(folder))
        exec(ours.replace(")\nconcept.generate(pipe, ", ")\nfound = concept.generate(pipe, ").replace("of <x>')", "of <x>', **how())"), scope | dict(how=how), scope)
        assert torch.equal(torch.as_tensor(scope["found"]), expected)
        assert len(theirs) == (strategy == "tokens")
        for code in theirs:
            scope = dict(pipe=Pipe(pipeline(family)), folder=str(folder))
            exec(code.replace("\npipe('a photo", "\nfound = pipe('a photo"), scope)
            assert torch.equal(torch.as_tensor(scope["found"]), expected)


@pytest.mark.parametrize("family, keys", [("sdxl", ["clip_g", "clip_l"]), ("sd3", ["clip_g", "clip_l", "t5xxl"]), ("flux", ["clip_l", "t5xxl"])])
def test_reported_keys_are_those_that_other_tools_know(family, keys, tmp_path):
    x = known(family)
    folder = x.save(tmp_path/"x")
    assert sorted(load_file(folder/"learned_embeds.safetensors")) == sorted(load_file(folder/"x.safetensors")) == keys
    foreign = load(pipe := pipeline(family), folder/"learned_embeds.safetensors") # as the other tools see it
    assert foreign.tokens == ["<learned_embeds>", "<learned_embeds-2>", "<learned_embeds-3>"]
    assert torch.allclose(picture(pipe, foreign, "a photo of <learned_embeds>", height=32, width=32), picture(pipeline(family), x), atol=1e-6)


def test_reported_old_files_are_still_read(tmp_path):
    "Flux's T5 rows once stood under t5, and there was neither README nor learned_embeds."
    x = made("flux")
    folder = x.save(tmp_path/"x")
    (folder/"README.md").unlink()
    manifest = json.loads((folder/"manifest.json").read_text("utf-8"))
    assert manifest.pop("learned_embeds") is None and not (folder/"learned_embeds.safetensors").exists()
    for name, entry in manifest["files"].items():
        rows = load_file(folder/name)
        save_file(dict(clip_l=rows["clip_l"], t5=rows["t5xxl"]), folder/name)
        entry |= dict(keys=dict(text_encoder="clip_l", text_encoder_2="t5"), sha256=core.sha256(folder/name))
    (folder/"manifest.json").write_text(json.dumps(manifest), "utf-8")
    assert torch.equal(picture(pipeline("flux"), load_concept(folder)), picture(pipeline("flux"), x))
    save_file(dict(clip_l=x.embeddings["text_encoder"], t5=x.embeddings["text_encoder_2"]), tmp_path/"old.safetensors")
    assert read_embedding(tmp_path/"old.safetensors", pipeline("flux")).phrase() == "<old> <old-2>"
    assert all(cls.file_keys.get("text_encoder_2") != "t5" for cls in BACKBONES.values())


def test_reported_an_export_never_means_something_else(tmp_path):
    x = made()
    with pytest.raises(ValueError, match="joined by ',', whose rows this concept does not hold; call remember"): x.export(tmp_path/"x.safetensors")
    assert not any(tmp_path.iterdir())
    spaced = dataclasses.replace(known(), join=" ") # the comma's rows are not those of a space
    assert len(load_file(spaced.export(tmp_path/"y.safetensors"))["<x>"]) == 2
    with pytest.raises(ValueError, match="joined by ';'"): dataclasses.replace(known(), join=";").export(tmp_path/"z.safetensors")


def test_reported_training_remembers_what_sharing_needs(tmp_path):
    pipe = pipeline()
    x = learn(pipe, num_bonus=2)
    comma = pipe.text_encoder.get_input_embeddings().weight[pipe.tokenizer(",", add_special_tokens=False).input_ids]
    assert torch.equal(x.separator[","]["text_encoder"], comma) and x.settings["probe"].keys() == {"unet", "text_encoder"}
    plain = pipeline()
    plain.load_textual_inversion(str(x.save(tmp_path/"x")))
    assert torch.equal(drawn(plain, "a <x>"), picture(pipe, x, "a <x>"))


@pytest.mark.parametrize("token", ["`<x>`", "<b>", "<x|y>", "[a](http://evil)", "<!--x-->", "'<x>'", '"<x>"', "<\\>", "```<x>", "<img-src=x-onerror=alert(1)>", "$<x>$", "#<猫>"])
def test_reported_names_of_users_are_no_markup(token, tmp_path):
    x = known(bonus=0, name=token)
    folder = x.save(tmp_path/"x")
    card = (folder/"README.md").read_text("utf-8")
    ours, theirs = blocks_of(card)
    compile(ours, "README.md", "exec"), compile(theirs, "README.md", "exec")
    outside = re.sub(r"```python\n.*?\n```\n", "", card, flags=re.S)
    outside = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", outside) # code spans, as Markdown reads them
    assert token not in outside and not re.search(r"[<>$\[\]]", outside.replace("[text-to-image, textual-inversion]", ""))
    from markdown_it import MarkdownIt
    html = MarkdownIt().render(card.split("---\n", 2)[2])
    assert not re.search(r"<(?!/?(h\d|p|ul|li|code|pre|hr)\b)", html) and "evil" not in re.sub(r"<code.*?</code>", "", html, flags=re.S)


def test_reported_hidden_characters_are_shown_in_the_readme(tmp_path):
    x = Concept("<\u202ex\0>", ["<\u202ex\0>"], ",", "tokens", dict(text_encoder=torch.ones(1, 16)), "sd", dict(pipeline="a\n# b"))
    card = (x.save(tmp_path/"x")/"README.md").read_text("utf-8")
    assert r"<\u202ex\x00>" in card and all(c.isprintable() or c == "\n" for c in card) and "\n# b" not in card


@pytest.mark.parametrize("names", [["<learned_embeds>", "<x>"], ["<con>", "<nul>"], ["<猫>", "<犬>"], ["<a>", "[A]", "(a)"], ["<" + "猫"*300 + ">", "<" + "猫"*300 + "2>"], ["***", "///"], ["<../../x>", "<x>"], ["<manifest>", "<README>"]])
def test_reported_files_of_all_names_come_back(names, tmp_path):
    x = Concept(names[0], names, " ", "tokens", dict(text_encoder=torch.randn(len(names), 16)), "sd", {})
    folder = x.save(tmp_path/"x")
    files = [p.name for p in folder.iterdir()]
    assert len(files) == len({name.lower() for name in files}) == len(names) + 3 and not {"con.safetensors", "nul.safetensors"} & set(files) and all(len(os.fsencode(f)) < 200 for f in files)
    again = load_concept(folder)
    assert again.tokens == names and torch.equal(again.embeddings["text_encoder"], x.embeddings["text_encoder"]) and [p.name for p in tmp_path.iterdir()] == ["x"]


def test_corrupt_file_of_the_whole_phrase_is_named(tmp_path):
    folder = known().save(tmp_path/"x")
    file = folder/"learned_embeds.safetensors"
    whole = file.read_bytes()
    for damage in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:30], b""):
        file.write_bytes(damage)
        with pytest.raises(core.CorruptFileError, match="learned_embeds.safetensors is missing or damaged"): load_concept(folder)
    file.unlink()
    with pytest.raises(core.CorruptFileError, match="missing or damaged"): load_concept(folder)


# what other people made

def test_reported_files_of_other_people_are_read(tmp_path):
    g = torch.Generator().manual_seed(3)
    one, two = torch.randn(2, 16, generator=g), torch.randn(2, 16, generator=g)
    for name, tensors, family, token in [
            ("a", {"<toy>": one}, "sd", "<toy>"), ("flat", {"<toy>": one[0]}, "sd", "<toy>"), ("my style", {"emb_params": one}, "sd", "<my-style>"), ("comfy", {"clip_l": one}, "sd", "<comfy>"),
            ("xl", {"clip_l": one, "clip_g": two}, "sdxl", "<xl>"), ("half", {"clip_g": two.half(), "clip_l": one.half()}, "sdxl", "<half>"), ("p", {"<toy>": one}, "pixart", "<toy>")]:
        save_file(tensors, tmp_path/f"{name}.safetensors")
        x = load(pipe := pipeline(family), tmp_path/f"{name}.safetensors")
        count = 1 if name == "flat" else 2
        assert x.placeholder == token and x.tokens == [token, f"{token[:-1]}-2>"][:count] and x.phrase() == " ".join(x.tokens)
        expected = dict(zip(x.embeddings, (one, two)))
        for slot, rows in x.embeddings.items(): assert torch.allclose(rows, expected[slot][:count], atol=1e-3)
        able = with_textual_inversion(pipeline(family))
        able.load_textual_inversion(tmp_path/f"{name}.safetensors", token=token)
        assert torch.equal(drawn(able, f"a {token}"), drawn(pipe, f"a {x.phrase()}")) and torch.equal(picture(pipe, x, f"a {token}", height=32, width=32), drawn(pipe, f"a {x.phrase()}"))
    assert load(pipeline(), tmp_path/"a.safetensors", "<other>").tokens == ["<other>", "<other-2>"]
    (tmp_path/"hub").mkdir()
    save_file({"<toy>": one}, tmp_path/"hub"/"learned_embeds.safetensors")
    assert load(pipeline(), tmp_path/"hub").placeholder == "<toy>"
    with pytest.raises(PlaceholderError, match="reads like ordinary text.*use <redcat>"): load(pipeline(), tmp_path/"a.safetensors", "redcat")


@pytest.mark.parametrize("tensors, family, why", [
    (dict(clip_l=torch.ones(1, 16), clip_g=torch.ones(1, 16)), "sd", "holds clip_g, clip_l, and this pipeline needs clip_l"), ({"<x>": torch.ones(1, 16)}, "sdxl", "needs clip_l, clip_g"),
    (dict(clip_l=torch.ones(1, 16), clip_g=torch.ones(1, 16)), "sd3", "needs clip_l, clip_g, t5xxl"), ({"<x>": torch.ones(1, 17)}, "sd", "width 17, the CLIPTextModel of this pipeline 16")])
def test_bad_arguments_files_for_other_pipelines_are_named(tensors, family, why, tmp_path):
    save_file(tensors, tmp_path/"x.safetensors")
    pipe = pipeline(family)
    state = whole_state(pipe)
    with pytest.raises(ValueError, match=why): load(pipe, tmp_path/"x.safetensors")
    assert changes(state, whole_state(pipe)) == []


@pytest.mark.parametrize("tensors", [
    {"<x>": torch.full((1, 16), torch.nan)}, {"<x>": torch.full((2, 16), torch.inf)}, {"<x>": torch.ones(1, 16, dtype=torch.long)}, {"<x>": torch.ones(0, 16)}, {"<x>": torch.ones(1, 1, 16)}, {"<x>": torch.tensor(1.)},
    {"clip_l": torch.ones(1, 16), "clip_g": torch.ones(2, 16)}])
def test_corrupt_rows_of_other_people_are_refused(tensors, tmp_path):
    save_file(tensors, tmp_path/"x.safetensors")
    with pytest.raises(core.CorruptFileError, match="does not hold finite rows"): load(pipeline("sd" if len(tensors) == 1 else "sdxl"), tmp_path/"x.safetensors")


@pytest.mark.parametrize("data", [b"", b"\x80\x04", b"\xff"*64, b"PK\x03\x04"])
def test_corrupt_files_of_other_people_are_refused(data, tmp_path):
    (tmp_path/"x.safetensors").write_bytes(data)
    with pytest.raises(core.CorruptFileError, match="no readable safetensors file"): load(pipeline(), tmp_path/"x.safetensors")


@pytest.mark.parametrize("name", ["e.pt", "learned_embeds.bin", "e.PT", "e.ckpt"])
def test_reported_pickles_are_refused_with_the_way_out(name, tmp_path):
    torch.save({"string_to_param": {"*": torch.ones(1, 16)}, "name": "x"}, tmp_path/name)
    able = with_textual_inversion(pipeline())
    for call in (lambda: load(pipeline(), tmp_path/name), lambda: able.load_textual_inversion(str(tmp_path/name)), lambda: able.load_textual_inversion(str(tmp_path), weight_name=name),
                 lambda: able.load_textual_inversion(str(tmp_path), use_safetensors=False)):
        with pytest.raises(ValueError, match=r"is a pickle, .*torch.load\(path, weights_only=True\), then safetensors.torch.save_file"): call()
    rows = torch.load(tmp_path/name, weights_only=True)["string_to_param"]["*"] # and the way out works
    save_file({"<token>": rows}, tmp_path/"token.safetensors")
    assert load(pipeline(), tmp_path/"token.safetensors").tokens == ["<token>"]


def test_bad_arguments_of_loading_are_named(tmp_path):
    folder = made().save(tmp_path/"x")
    with pytest.raises(ValueError, match="placeholder renames the concept of a file"): load(pipeline(), folder, "<y>")
    with pytest.raises(FileNotFoundError, match="holds no manifest.json"): load(pipeline(), tmp_path/"nothing")
    with pytest.raises(FileNotFoundError, match="holds no manifest.json"): load(pipeline(), tmp_path)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_reported_any_text_is_one_span_of_code(text):
    from markdown_it import MarkdownIt
    from tokenstudy.brat.concepts import _span
    [block, *_] = MarkdownIt().parseInline(f"a {_span(text)} b")
    assert [t.type for t in block.children] == ["text", "code_inline", "text"]
