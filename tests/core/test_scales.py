"core.scales: settings, seeds, devices, provenance, errors, bars."
import json
import os
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tokenstudy import core


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("TOKENSTUDY_CACHE", str(tmp_path/"cache"))
    return tmp_path


def python(code: str, *args, **kw) -> subprocess.Popen:
    "A process of this interpreter that runs some code."
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, args)], stdout=subprocess.PIPE, text=True, **kw)


def test_scale_is_a_copy_of_the_chosen_settings(monkeypatch):
    settings = dict(K=[2, 4])
    monkeypatch.setenv("TOKENSTUDY_SCALE", "gpu")
    core.scale(smoke={}, gpu=settings)["K"].append(8)
    assert settings == dict(K=[2, 4])
    with pytest.raises(ValueError, match="'gpu'.*it has: smoke, paper"): core.scale(smoke={}, paper={})
    monkeypatch.setenv("TOKENSTUDY_SCALE", "LAPTOP")
    with pytest.raises(ValueError, match="smoke, laptop, gpu, paper"): core.current_scale()
    monkeypatch.delenv("TOKENSTUDY_SCALE")
    assert core.current_scale() == "laptop"


def test_settings_are_merged_into_those_of_the_scale(monkeypatch):
    settings = dict(problems=300, task=dict(epochs=3, lr=2e-5, deep=dict(a=1, b=2)), grid=[1, 2])
    monkeypatch.setenv("TOKENSTUDY_SCALE", "gpu")
    monkeypatch.setenv("TOKENSTUDY_SETTINGS", '{"problems": 8, "task": {"deep": {"b": null}}, "grid": [3]}')
    assert core.scale(gpu=settings) == dict(problems=8, task=dict(epochs=3, lr=2e-5, deep=dict(a=1, b=None)), grid=[3])
    assert settings["problems"] == 300 and settings["task"]["deep"]["b"] == 2
    assert "gpu with other settings (problems, task.deep.b, grid)" in repr(core.banner())
    with pytest.raises(ValueError, match="'grid'.*'gpu'.*there is: problems, task"): core.scale(gpu=dict(problems=1, task=settings["task"]))
    monkeypatch.setenv("TOKENSTUDY_SETTINGS", "")
    assert core.scale(gpu=settings) == settings and "settings" not in repr(core.banner())


@pytest.mark.parametrize("text, said", [
    ("problems=3", "cannot be read.*must be a JSON object"), ("[1]", r"is \[1\]"), ("3", "JSON object"), ('{"K": Infinity}', "Infinity is not a number"), ('{"K": 1, "K": 2}', "twice"),
    ("[" * 100_000, "cannot be read"), ('{"k": 1}', "'k', which scale 'gpu'.*there is: K, task"), ('{"task": {"epoch": 1}}', "'task.epoch'.*there is: task.epochs"),
    ('{"task": 1}', "a part with settings"), ('{"K": {"a": 1}}', "one value")])
def test_settings_that_cannot_be_are_refused(monkeypatch, text, said):
    monkeypatch.setenv("TOKENSTUDY_SCALE", "gpu")
    monkeypatch.setenv("TOKENSTUDY_SETTINGS", text)
    with pytest.raises(ValueError, match=said): core.scale(gpu=dict(K=1, task=dict(epochs=2)))


def test_records_see_the_changed_settings_and_are_not_published(monkeypatch, tmp_path):
    runs = core.Runs("demo/toy")
    for text, n in (('{"n": 2}', 2), ("", 5)):
        monkeypatch.setenv("TOKENSTUDY_SETTINGS", text)
        runs(settings := core.scale(smoke=dict(n=5)), lambda: settings["n"] + 1)
        assert settings["n"] == n and runs.get(dict(n=n)) == n + 1
    assert len(runs) == 2
    monkeypatch.setenv("TOKENSTUDY_SETTINGS", '{"n": 2}')
    with pytest.raises(ValueError, match="TOKENSTUDY_SETTINGS.*not scale smoke"): runs.publish()
    assert not (tmp_path/"results").exists()


@pytest.mark.parametrize("bad", ["0", "-1", "1.5", "two", "²", " "])
def test_bad_number_of_seeds_is_refused(monkeypatch, bad):
    monkeypatch.setenv("TOKENSTUDY_SEEDS", bad)
    with pytest.raises(ValueError, match="whole number"): core.seeds(3)


def test_seeding_covers_every_generator():
    import torch
    def draw(seed): return core.seed_everything(seed).random(), random.random(), np.random.rand(), torch.rand(1).item()
    first, again, other = draw(3), draw(3), draw(4)
    assert first == again
    assert all(a != b for a, b in zip(first, other))


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "meta", "cpu:3"])
def test_absent_device_is_refused(monkeypatch, name):
    with pytest.raises(ValueError, match=name): core.device(name)
    monkeypatch.setenv("TOKENSTUDY_DEVICE", name)
    with pytest.raises(ValueError, match=name): core.device()


def test_dtype_follows_device_unless_told(monkeypatch):
    import torch
    monkeypatch.setenv("TOKENSTUDY_DEVICE", "cpu")
    assert core.dtype() is torch.float32
    assert core.dtype(torch.bfloat16) is core.dtype("bf16") is core.dtype("bfloat16") is torch.bfloat16
    monkeypatch.setenv("TOKENSTUDY_DTYPE", "fp64")
    assert core.dtype() is torch.float64
    with pytest.raises(ValueError, match="int8"): core.dtype("int8")


def test_project_root_is_found_from_below(tmp_path, monkeypatch):
    monkeypatch.delenv("TOKENSTUDY_HOME")
    (tmp_path/"settings.ini").touch()
    (tmp_path/"a"/"b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path/"a"/"b")
    assert core.project_root() == tmp_path
    assert core.runs_dir() == tmp_path/"runs"/"smoke"


def test_provenance_and_banner_hold_no_paths_or_names(tmp_path):
    import getpass, socket
    text = json.dumps(core.provenance(seed=3)) + repr(core.banner())
    assert not any(word in text for word in (str(tmp_path), os.path.expanduser("~"), socket.gethostname()))
    assert json.loads(json.dumps(core.provenance(seed=3)))["seed"] == 3
    assert "\n" not in repr(core.banner()) and "smoke" in repr(core.banner())
    assert getpass.getuser() not in core.provenance().values()


def test_git_state_says_revision_and_dirt(tmp_path):
    def git(*args): subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org", *args], check=True, capture_output=True)
    assert core.git_state(tmp_path/"nowhere") == dict(revision=None, dirty=None)
    git("init")
    (tmp_path/"f").write_text("1")
    git("add", "f")
    git("commit", "-m", "x")
    clean = core.git_state(tmp_path)
    assert len(clean["revision"]) == 40 and clean["dirty"] is False
    (tmp_path/"f").write_text("2")
    core.git_state.cache_clear()
    assert core.git_state(tmp_path) == dict(revision=clean["revision"], dirty=True)


def test_importing_is_light():
    done = python("""
        import sys, tokenstudy, tokenstudy.core, tokenstudy.lm, tokenstudy.multidraft, tokenstudy.app, tokenstudy.core.show
        print([m for m in ("torch", "transformers", "diffusers", "matplotlib", "scipy", "nbclient", "nbconvert", "IPython", "tqdm") if m in sys.modules])
    """)
    assert done.communicate()[0].strip() == "[]"


@pytest.mark.parametrize("bad", ["1000001", "1000000000"])
def test_reported_too_many_seeds_are_refused(monkeypatch, bad):
    monkeypatch.setenv("TOKENSTUDY_SEEDS", bad)
    with pytest.raises(ValueError, match="a million"): core.seeds()


def test_reported_memory_counts_what_the_file_cache_would_give_back(monkeypatch):
    import psutil
    whole = psutil.virtual_memory()
    assert core.available_memory("cpu") == pytest.approx(whole.available, rel=.2)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: whole._replace(available=5, free=3))
    assert core.available_memory("cpu") == 5


def test_errors_can_be_told_apart_and_caught_together():
    from tokenstudy.core import scales
    for kind in ("MissingModelError", "MissingPackageError", "CorruptFileError", "CheckpointError", "TrainingError"):
        assert issubclass(getattr(core, kind), core.TokenStudyError) and getattr(core, kind) is getattr(scales, kind)
    assert issubclass(core.MissingPackageError, ImportError) and issubclass(core.CheckpointError, ValueError)


def test_missing_packages_name_their_extra(monkeypatch):
    import importlib.metadata
    lines = ["numpy>=2", "pillow>=11; extra == 'brat'", "torch; extra == 'brat'", "torch>=2; extra == \"lm\"", "ray[default]>=2; extra == 'cluster'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    for package, module, extra in (("PIL", "tokenstudy.brat.world", "brat"), ("torch", "tokenstudy.brat.bases", "brat"),
                                   ("torch", "tokenstudy.multidraft.decoding", "lm"), ("ray", "tokenstudy.lm.rollout", "cluster")):
        error = core.missing_package(package, module)
        assert f"pip install 'tokenstudy[{extra}]'" in str(error) and module in str(error) and error.name == package
    assert core.missing_package("numpy", "tokenstudy.core.files") is core.missing_package("nowhere", "tokenstudy.core.files") is None


def test_bars_in_a_terminal_leave_stdout_alone():
    done = python("""
        import io, sys
        sys.stderr = io.StringIO()
        from tokenstudy import core
        bar = core.progress(range(3))
        inner = core.progress(range(3))
        assert (bar.pos, inner.pos) == (-1, -2)
        inner.close()
        assert core.progress(range(3)).pos == -2
        assert list(bar) == [0, 1, 2]
        print(sys.stderr.getvalue() == "")
    """, env=os.environ | dict(TOKENSTUDY_PROGRESS="terminal"))
    assert done.communicate()[0].strip() == "True"
