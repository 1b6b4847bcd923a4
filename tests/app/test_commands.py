"cli: measurements are printed, models are checked, wrong requests are told in a line."
import importlib
import json
import re
import sys
import types

import pytest

import tokenstudy
from tokenstudy import core
from tokenstudy.app import commands
from tokenstudy.app.commands import main
from tokenstudy.core import files


# ---- bench

@pytest.fixture
def bench(monkeypatch):
    module = types.ModuleType("fake_bench")
    module.rows = lambda: iter([core.bench_row("good", 1, 3, "them", "ms", goal=2), core.bench_row("bad", 3, 1, "them", "ms", goal=2), core.bench_row("free", 1, 1, "them", "ms")])
    monkeypatch.setitem(sys.modules, "fake_bench", module)
    monkeypatch.setattr(commands, "BENCHES", {"fake": "fake_bench"})
    return module


def test_bench_marks_rows_under_their_goal(bench, capsys):
    assert main(["bench"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [("UNDER GOAL" in line) for line in lines] == [False, False, True, False]
    assert lines[1].split()[:4] == ["good", "1", "3", "ms"] and lines[1].endswith("against them")


def test_bench_json_is_one_list(bench, capsys):
    assert main(["bench", "fake", "--json"]) == 0
    said = capsys.readouterr()
    assert [r["name"] for r in json.loads(said.out)] == ["good", "bad", "free"] and "good" in said.err


def test_bench_without_its_model_says_so(bench, capsys):
    def rows():
        yield core.bench_row("good", 1, 3, "them", "ms")
        raise core.MissingModelError("no model; get it there")
    bench.rows = rows
    assert main(["bench", "--json"]) == 1
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 1 and "fake: no model; get it there" in said.err


def test_registered_benches_exist():
    for place in commands.BENCHES.values():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function or "rows"))


# ---- models

@pytest.fixture
def models(tmp_path, monkeypatch):
    "An assets folder with one file, and a language model in a state to be set."
    lm = types.ModuleType("tokenstudy.lm")
    lm.state, lm.prepared = "wheel only", []
    lm.lm_status = lambda: [dict(name="smollm2", state=lm.state, detail="a detail\nand the way out")]
    lm.prepare_lm, lm.verify_lm = lm.prepared.append, lambda name: None
    monkeypatch.setitem(sys.modules, "tokenstudy.lm", lm)
    monkeypatch.setattr(tokenstudy, "lm", lm, raising=False)
    monkeypatch.setattr(files, "assets_dir", lambda: tmp_path)
    (tmp_path/"draft.safetensors").write_bytes(b"12345")
    core.add_asset(tmp_path/"draft.safetensors", made_by="tests.make", seed=0)
    return types.SimpleNamespace(lm=lm, asset=tmp_path/"draft.safetensors")


def test_models_lists_what_there_is(models, capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"draft.safetensors +embedded +ok +5e-06 MB +made by tests.make", out) and re.search(r"smollm2 +language model +wheel only +– +a detail$", out, re.MULTILINE)
    models.lm.state = "missing"
    assert main(["models"]) == 0
    assert "and the way out" in capsys.readouterr().err


def test_verify_finds_a_flipped_byte(models, capsys):
    assert main(["models", "verify"]) == 0
    models.asset.write_bytes(b"12346")
    assert main(["models", "verify"]) == 1
    said = capsys.readouterr()
    assert re.search(r"draft.safetensors +embedded +corrupt", said.out) and "git checkout -- tokenstudy/assets" in said.err
    models.asset.unlink()
    assert main(["models", "verify", "draft.safetensors"]) == 1
    assert main(["models", "verify", "smollm2"]) == 0


def test_verify_reads_the_cached_model(models, capsys):
    def damaged(name): raise core.CorruptFileError(f"{name} is damaged; delete it")
    models.lm.state, models.lm.verify_lm = "cached", damaged
    assert main(["models"]) == 0
    assert main(["models", "verify"]) == 1
    assert "smollm2 is damaged; delete it" in capsys.readouterr().err


def test_prepare_converts_once(models, capsys):
    assert main(["models", "prepare"]) == 0 and models.lm.prepared == ["smollm2"]
    models.lm.state = "cached"
    assert main(["models", "prepare", "smollm2"]) == 0 and models.lm.prepared == ["smollm2"]
    models.lm.state = "corrupt"
    assert main(["models", "prepare"]) == 1 and "the way out" in capsys.readouterr().err
    def missing(name): raise core.MissingModelError("install the wheel")
    models.lm.state, models.lm.prepare_lm = "missing", missing
    assert main(["models", "prepare"]) == 1 and "tokenstudy: install the wheel" in capsys.readouterr().err


def test_reported_preparing_an_embedded_file_says_something(models, capsys):
    assert main(["models", "prepare", "draft.safetensors"]) == 0
    assert capsys.readouterr().out == "draft.safetensors: part of the package, there is nothing to prepare\n"
    models.asset.write_bytes(b"1234")
    assert main(["models", "prepare", "draft.safetensors"]) == 1 and "5 bytes expected, 4 found" in capsys.readouterr().err
    models.asset.unlink()
    assert main(["models", "prepare", "draft.safetensors"]) == 1 and "missing" in capsys.readouterr().err
    assert models.lm.prepared == [] and main(["models", "prepare"]) == 0 and capsys.readouterr().out == "smollm2: ready\n"


def test_unknown_model_and_damaged_manifest(models, capsys):
    assert main(["models", "verify", "gpt5"]) == 2
    assert "'gpt5' is not one of draft.safetensors, smollm2" in capsys.readouterr().err
    (models.asset.parent/"MANIFEST.json").write_text("{")
    assert main(["models"]) == 1
    assert "MANIFEST.json" in capsys.readouterr().err


# ---- the command

def test_version_and_help(capsys):
    for argv, said in ((["--version"], "tokenstudy "), (["--help"], "examples:"), (["study", "--help"], "tokenstudy study multidraft --scale smoke"), (["bench", "--help"], "--json"), (["models", "--help"], "verify")):
        with pytest.raises(SystemExit) as e: main(argv)
        assert e.value.code == 0 and said in capsys.readouterr().out


def test_wrong_requests_exit_2(checkout, capsys):
    for argv, said in ((["study", "alchemy"], "unknown paper 'alchemy'; known: multidraft"), (["bench", "alchemy"], "known: multidraft"), (["study", "--seeds", "0"], "at least 1"),
                       (["study", "--scale", "huge"], "invalid choice"), ([], "required"), (["models", "burn"], "invalid choice")):
        with pytest.raises(SystemExit) as e: main(argv)
        assert e.value.code == 2 and said in capsys.readouterr().err


def test_outside_of_a_checkout_it_says_to_clone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOKENSTUDY_HOME", str(tmp_path))
    assert main(["study"]) == 1
    assert "clone" in capsys.readouterr().err


def test_runs_that_cannot_be_written_are_one_line(checkout, capsys):
    (checkout/"runs").write_text("in the way")
    assert main(["study"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("tokenstudy: ")
