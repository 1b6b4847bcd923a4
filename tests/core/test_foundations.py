"core: scale, seeds, device, provenance, whole files, checked assets, progress, intervals, races."
import json
import os
import random
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tokenstudy import core
from tokenstudy.core.scales import CorruptFileError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("TOKENSTUDY_CACHE", str(tmp_path/"cache"))
    return tmp_path


def python(code: str, *args, **kw) -> subprocess.Popen:
    "A process of this interpreter that runs some code."
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, args)], stdout=subprocess.PIPE, text=True, **kw)


# ---- scale, seeds, device

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
        import sys, tokenstudy, tokenstudy.core, tokenstudy.show, tokenstudy.cli
        print([m for m in ("torch", "transformers", "diffusers", "matplotlib", "scipy", "nbclient", "nbconvert", "IPython", "tqdm") if m in sys.modules])
    """)
    assert done.communicate()[0].strip() == "[]"


# ---- whole files

@pytest.mark.parametrize("moment", ["before the flush", "before the rename"])
def test_kill_while_writing_a_file_keeps_the_old_one(tmp_path, moment):
    core.atomic_write(tmp_path/"f", "old")
    hook = "os.fsync" if moment == "before the flush" else "os.replace"
    done = python(f"""
        import os, signal, sys
        from tokenstudy import core
        {hook} = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
        core.atomic_write(sys.argv[1], "new"*1000)
    """, tmp_path/"f")
    done.communicate()
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path/"f").read_text() == "old"
    core.atomic_write(tmp_path/"f", "new")
    assert (tmp_path/"f").read_text() == "new"


def test_failed_write_leaves_no_debris(tmp_path, monkeypatch):
    def full(fd): raise OSError(28, "No space left on device")
    core.atomic_write(tmp_path/"f", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"): core.atomic_write(tmp_path/"f", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path/"f").read_text() == "old"


def test_killed_folder_is_not_there_and_can_be_made_again(tmp_path):
    done = python("""
        import os, signal, sys
        from tokenstudy import core
        with core.atomic_folder(sys.argv[1]) as d:
            (d/"half").write_text("1")
            os.kill(os.getpid(), signal.SIGKILL)
    """, tmp_path/"model")
    done.communicate()
    assert not (tmp_path/"model").exists()
    leftover, = tmp_path.glob(".model.*.partial")
    with core.atomic_folder(tmp_path/"model") as d: (d/"whole").write_text("1")
    assert [p.name for p in (tmp_path/"model").iterdir()] == ["whole"]
    assert leftover.exists(), "another process may still be filling it"
    os.utime(leftover, (0, 0))
    with core.atomic_folder(tmp_path/"model"): pass
    assert not leftover.exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_interrupted_folder_leaves_nothing(tmp_path, error):
    with pytest.raises(error), core.atomic_folder(tmp_path/"model") as d:
        (d/"sub").mkdir()
        (d/"sub"/"half").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_folder_where_a_file_stands_is_an_error(tmp_path):
    (tmp_path/"model").write_text("a file")
    with pytest.raises(OSError), core.atomic_folder(tmp_path/"model") as d: (d/"x").touch()
    assert (tmp_path/"model").read_text() == "a file"


# ---- assets

@pytest.fixture
def assets(tmp_path, monkeypatch):
    (tmp_path/"assets").mkdir()
    monkeypatch.setattr(core, "assets_dir", lambda: tmp_path/"assets")
    (tmp_path/"assets"/"w.bin").write_bytes(bytes(range(256)))
    core.add_asset(tmp_path/"assets"/"w.bin", made_by="test", seed=1)
    return tmp_path/"assets"


def test_every_flipped_byte_is_found(assets):
    whole = (assets/"w.bin").read_bytes()
    assert core.asset("w.bin") == assets/"w.bin"
    for i in range(len(whole)):
        (assets/"w.bin").write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1:])
        with pytest.raises(CorruptFileError, match=r"w\.bin is damaged: sha256 \w{64} expected, \w{64} found; .*git checkout"): core.asset("w.bin")


def test_truncated_missing_and_unknown_assets_are_named(assets):
    (assets/"w.bin").write_bytes(b"abc")
    with pytest.raises(CorruptFileError, match="256 bytes expected, 3 found"): core.asset("w.bin")
    (assets/"w.bin").unlink()
    with pytest.raises(CorruptFileError, match="w.bin is missing"): core.asset("w.bin")
    for name in ("other.bin", "../secret", "/etc/passwd", "MANIFEST.json"):
        with pytest.raises(CorruptFileError, match="not in .*MANIFEST.json, which names: w.bin"): core.asset(name)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"w.bin": 3}', '{"w.bin": {"size": 1}}', "\0"])
def test_damaged_manifest_is_named(assets, text):
    (assets/"MANIFEST.json").write_text(text)
    with pytest.raises(CorruptFileError, match="MANIFEST.json|not in"): core.asset("w.bin")


def test_embedded_assets_are_whole():
    for name in core.manifest(): core.asset(name)


# ---- progress, intervals, races

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


def test_interval_equals_the_naive_loop():
    x = np.random.default_rng(1).exponential(size=50)
    rng = np.random.default_rng(5)
    means = [x[row].mean() for row in rng.integers(50, size=(2000, 50))]
    assert core.bootstrap_interval(x, seed=5) == pytest.approx((x.mean(), *np.quantile(means, [.025, .975])), abs=1e-12)
    mean, low, high = core.bootstrap_interval(x, level=.5)
    assert core.bootstrap_interval(x)[1] < low < mean < high < core.bootstrap_interval(x)[2]


def test_interval_works_in_blocks():
    x = np.arange(5000.)
    mean, low, high = core.bootstrap_interval(x)
    assert mean == 2499.5 and high - mean == pytest.approx(1.96*x.std()/5000**.5, rel=.1) and mean - low == pytest.approx(high - mean, rel=.1)


@pytest.mark.parametrize("bad", [[], [[1, 2]], [1, np.nan], [np.inf], 3])
def test_interval_of_nonsense_is_refused(bad):
    with pytest.raises(ValueError): core.bootstrap_interval(bad)


def test_races_take_turns():
    calls = []
    core.race(lambda: calls.append("ours"), lambda: calls.append("peer"), runs=3, warmup=2)
    assert calls == ["ours", "peer"]*5


def test_bench_row_has_exactly_these_keys():
    row = core.bench_row("r", np.float64(2), 6, "them", "ms", goal=2)
    assert list(row) == ["name", "ours", "peer", "peer_name", "unit", "ratio", "goal", "runs", "device"]
    assert row["ratio"] == 3 and core.bench_row("r", 2, 6, "them", "1/s", lower_is_better=False)["ratio"] == pytest.approx(1/3)
    json.dumps(row)
