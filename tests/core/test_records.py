"core: nothing is lost to a kill, nothing half-written is believed, nothing that changes a result leaves its key alone."
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from hypothesis import given, strategies as st

from conftest import named
from tokenstudy import core
from tokenstudy.core.scales import CorruptFileError, TokenStudyError
from tokenstudy.core.records import Runs
from tokenstudy.core import records


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("TOKENSTUDY_CACHE", str(tmp_path/"cache"))
    return tmp_path


def python(code: str, *args, **kw) -> subprocess.Popen:
    "A process of this interpreter that runs some code."
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, args)], stdout=subprocess.PIPE, text=True, **kw)


WORKER = """
    import sys
    from tokenstudy.core import Runs
    runs, first, last = Runs("demo/toy"), int(sys.argv[1]), int(sys.argv[2])
    for i in range(first, last):
        runs({"i": i}, lambda: {"square": i*i, "text": "x"*200})
        print(i, flush=True)
"""


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


# ---- keys

plain_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8)


@given(st.dictionaries(st.text(), plain_values, max_size=4), st.randoms())
def test_key_ignores_order_and_json_round_trips(config, rng):
    items = list(config.items())
    rng.shuffle(items)
    key = core.config_key("s", "smoke", config)
    assert key == core.config_key("s", "smoke", dict(items)) == core.config_key("s", "smoke", json.loads(json.dumps(config)))
    assert len(key) == 16 and int(key, 16) >= 0


@given(st.dictionaries(st.text(), plain_values, max_size=4), st.dictionaries(st.text(), plain_values, max_size=4))
def test_key_changes_with_anything_else(a, b):
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (core.config_key("s", "smoke", a) == core.config_key("s", "smoke", b)) == same
    assert core.config_key("s", "smoke", a) != core.config_key("s", "laptop", a) != core.config_key("t", "laptop", a)


def test_numpy_and_torch_values_have_the_key_of_plain_ones():
    import torch
    key = core.config_key("s", "smoke", dict(n=3, x=.5, law=[.25, .75], on=True))
    assert key == core.config_key("s", "smoke", dict(n=np.int32(3), x=np.float32(.5), law=np.array([.25, .75]), on=np.bool_(True)))
    assert key == core.config_key("s", "smoke", dict(n=torch.tensor(3), x=.5, law=torch.tensor([.25, .75]), on=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {1: 2}, {1, 2}, b"x", 1j, np.array([1, np.nan]), object()], ids=named)
def test_what_json_cannot_hold_is_refused_with_its_place(bad):
    with pytest.raises(ValueError, match=r"config\['deep'\]\[1\]"): core.config_key("s", "smoke", dict(deep=[0, bad]))
    with pytest.raises(ValueError, match="a config must be a dict"): core.config_key("s", "smoke", [1])


# ---- runs

def test_second_time_is_read_not_computed():
    result = Runs("demo/toy")(dict(i=1), lambda: dict(law=np.array([.5, .5]), pair=(1, 2)))
    assert result == dict(law=[.5, .5], pair=[1, 2])
    assert Runs("demo/toy")(dict(i=1), lambda: pytest.fail("computed again")) == result
    assert Runs("demo/toy")(dict(i=1), lambda: 7, fresh=True) == 7 == Runs("demo/toy").get(dict(i=1))
    record, = Runs("demo/toy").records()
    assert set(record) == {"key", "config", "result", "provenance", "seconds"}
    assert dict(i=1) in Runs("demo/toy") and dict(i=2) not in Runs("demo/toy")


def test_scales_do_not_share_records(monkeypatch):
    Runs("demo/toy")(dict(i=1), lambda: "smoke")
    monkeypatch.setenv("TOKENSTUDY_SCALE", "laptop")
    assert Runs("demo/toy")(dict(i=1), lambda: "laptop") == "laptop"
    assert Runs("demo/toy").path.parts[-3:] == ("laptop", "demo", "toy.jsonl")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_unit_leaves_no_record(error):
    def fail(): raise error
    with pytest.raises(error): Runs("demo/toy")(dict(i=1), fail)
    assert len(Runs("demo/toy")) == 0
    with pytest.raises(ValueError, match=r"result\['x'\] is nan"): Runs("demo/toy")(dict(i=1), lambda: dict(x=float("nan")))
    assert len(Runs("demo/toy")) == 0


@pytest.mark.parametrize("after", [0, 1, 7])
def test_killed_process_loses_at_most_the_unit_in_progress(after):
    worker = python(WORKER, 0, 100_000)
    said = [int(worker.stdout.readline()) for _ in range(after + 1)]
    worker.kill()
    rest, _ = worker.communicate()
    last = max(said + [int(n) for n in rest.split()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {r["config"]["i"]: r["result"]["square"] for r in Runs("demo/toy").records()}
    assert found.items() >= {i: i*i for i in range(last + 1)}.items()
    assert len(found) <= last + 2


def test_kill_in_the_middle_of_a_line():
    worker = python("""
        import os, signal
        from tokenstudy.core import Runs
        runs, write = Runs("demo/toy"), os.write
        runs({"i": 0}, lambda: 0)
        def half(fd, data):
            write(fd, data[:len(data)//2])
            os.kill(os.getpid(), signal.SIGKILL)
        os.write = half
        runs({"i": 1}, lambda: 1)
    """)
    worker.communicate()
    assert worker.returncode == -signal.SIGKILL
    runs = Runs("demo/toy")
    with pytest.warns(UserWarning, match=r"runs/smoke/demo/toy.jsonl: line 2 damaged, moved to toy.jsonl.bad; 1 unit of work will be redone"):
        assert [r["config"]["i"] for r in runs.records()] == [0]
    assert runs(dict(i=1), lambda: "again") == "again"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Runs("demo/toy")) == 2


def make_file(n=3):
    runs = Runs("demo/toy")
    for i in range(n): runs(dict(i=i), lambda: dict(i=i))
    return runs.path, runs.path.read_bytes()


def test_file_cut_at_any_byte_keeps_its_whole_lines():
    path, whole = make_file()
    ends = [i + 1 for i, b in enumerate(whole) if b == 10]
    for cut in range(len(whole)):
        good, bad = records._read_records(whole[:cut], "demo/toy", "smoke")
        full = sum(end - 1 <= cut for end in ends)
        assert len(good) == full
        assert len(bad) == (cut not in (0, *ends, *(e - 1 for e in ends)))
    for cut in (1, len(whole)//2, len(whole) - 2):
        path.write_bytes(whole[:cut])
        with pytest.warns(UserWarning, match="damaged"): Runs("demo/toy").records()
        runs = Runs("demo/toy")
        assert [runs(dict(i=i), lambda: dict(i=i)) for i in range(3)] == [dict(i=i) for i in range(3)]


@pytest.mark.parametrize("damage", [
    lambda line: line[:20] + b"\xff\xfe" + line[22:], lambda line: b"\0"*len(line), lambda line: b"[1, 2]", lambda line: b"null", lambda line: line + line,
    lambda line: line.replace(b'"config":{"i":1}', b'"config":{"i":7}'), lambda line: line.replace(b'"result"', b'"resolt"'), lambda line: b"["*100_000,
], ids=["not utf-8", "zeros", "a list", "null", "two in one", "other config", "no result", "deep"])
def test_corrupt_middle_line_is_set_aside(damage):
    path, whole = make_file()
    lines = whole.splitlines()
    path.write_bytes(b"\n".join([lines[0], damage(lines[1]), lines[2], b""]))
    with pytest.warns(UserWarning, match="line 2 damaged"): assert [r["config"]["i"] for r in Runs("demo/toy").records()] == [0, 2]
    assert damage(lines[1]) in path.with_name("toy.jsonl.bad").read_bytes()
    assert path.read_bytes() == b"\n".join([lines[0], lines[2], b""])


def test_line_appended_after_a_torn_one_is_whole():
    path, whole = make_file(2)
    runs = Runs("demo/toy")
    assert len(runs) == 2
    with open(path, "ab") as f: f.write(b'{"key": "torn')
    with pytest.warns(UserWarning, match="line 3"): runs(dict(i=9), lambda: 9)
    runs.append(runs.records()[0])
    path.write_bytes(path.read_bytes()[:-1])
    runs.append(runs.records()[1])
    assert len(records._read_records(path.read_bytes(), "demo/toy", "smoke")[0]) == 3
    assert not records._read_records(path.read_bytes(), "demo/toy", "smoke")[1]


def test_two_processes_share_a_file():
    a, b = python(WORKER, 0, 40), python(WORKER, 40, 80)
    a.communicate(), b.communicate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sorted(r["config"]["i"] for r in Runs("demo/toy").records()) == list(range(80))


def test_writers_wait_for_the_lock():
    runs = Runs("demo/toy")
    with runs.locked():
        worker = python("""
            from tokenstudy.core import Runs
            runs = Runs("demo/toy")
            print("ready", flush=True)
            runs({"i": 0}, lambda: 0)
        """)
        worker.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired): worker.wait(.5)
        assert not runs.path.exists()
    worker.communicate()
    assert len(runs) == 1


def test_one_process_sees_what_another_finished():
    runs = Runs("demo/toy")
    assert len(runs) == 0
    python(WORKER, 0, 3).communicate()
    assert runs(dict(i=2), lambda: pytest.fail("computed again"))["square"] == 4


def test_folder_that_cannot_be_written_is_said_before_any_work(tmp_path):
    (tmp_path/"runs").write_text("a file in the way")
    with pytest.raises(TokenStudyError, match="cannot write runs/smoke/demo/toy.jsonl .*TOKENSTUDY_HOME"):
        Runs("demo/toy")(dict(i=1), lambda: pytest.fail("worked in vain"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_said_before_any_work(tmp_path):
    path, _ = make_file(1)
    path.parent.chmod(0o500)
    path.chmod(0o400)
    try:
        assert Runs("demo/toy").get(dict(i=0)) == dict(i=0)
        with pytest.raises(TokenStudyError, match="cannot write .*TOKENSTUDY_HOME"): Runs("demo/toy")(dict(i=1), lambda: pytest.fail("worked in vain"))
    finally: path.parent.chmod(0o700)


def test_full_disk_is_said(monkeypatch):
    runs = Runs("demo/toy")
    def full(fd, data): raise OSError(28, "No space left on device")
    def work(): monkeypatch.setattr(os, "write", full); return 1
    with pytest.raises(TokenStudyError, match="No space left"): runs(dict(i=1), work)


@pytest.mark.parametrize("name", ["", "../x", "a/../../b", "/abs", "a//b", "a/"])
def test_study_names_stay_inside(name):
    with pytest.raises(ValueError, match="named like"): Runs(name)


def test_published_records_can_be_read_back(tmp_path):
    runs = Runs("demo/toy")
    with pytest.raises(ValueError, match="no records"): runs.publish()
    runs(dict(i=1), lambda: 1)
    runs(dict(i=1), lambda: 2, fresh=True)
    assert runs.publish() == tmp_path/"results"/"demo"/"toy"/"smoke.jsonl"
    assert core.published("demo/toy", "smoke") == runs.records() and len(runs.records()) == 1
    runs.publish("kept")
    assert core.published("kept", "smoke") == runs.records()
    assert core.published("demo/none", "smoke") == []
    (tmp_path/"results"/"kept"/"smoke.jsonl").write_text("{}\n")
    with pytest.raises(CorruptFileError, match="results/kept/smoke.jsonl, line 1"): core.published("kept", "smoke")


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
