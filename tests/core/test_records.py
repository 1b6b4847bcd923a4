"Records: nothing finished is lost, nothing damaged is believed, nothing that changes a result leaves its record in use."
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import types
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from conftest import named
from tokenstudy import core
from tokenstudy.core import record_files, records
from tokenstudy.core.record_files import RecordFile
from tokenstudy.core.records import Runs
from tokenstudy.core.scales import CorruptFileError, TokenStudyError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("TOKENSTUDY_CACHE", str(tmp_path/"cache"))
    monkeypatch.setattr(records, "_WARNED", set())
    return tmp_path


def python(code: str, *args, **kw) -> subprocess.Popen:
    "A process of this interpreter that runs some code."
    kw = dict(stdout=subprocess.PIPE, text=True) | kw
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, args)], **kw)


WORKER = """
    import sys
    from functools import partial
    from tokenstudy.core import Runs
    def work(i): return {"square": i*i, "text": "x"*200}
    runs, first, last = Runs("demo/toy"), int(sys.argv[1]), int(sys.argv[2])
    for i in range(first, last):
        runs({"i": i}, partial(work, i))
        print(i, flush=True)
"""


def square(i): return dict(square=i*i)


def never(): pytest.fail("computed again")


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
    with pytest.raises(ValueError, match="config"): core.config_key("s", "smoke", [1])


# ---- runs

def test_second_time_is_read_not_computed():
    calls = []
    def work(): calls.append(1); return dict(shares=np.array([.5, .5]), pair=(1, len(calls)))
    result = Runs("demo/toy")(dict(i=1), work)
    assert result == dict(shares=[.5, .5], pair=[1, 1])
    assert Runs("demo/toy")(dict(i=1), work) == result and len(calls) == 1
    assert Runs("demo/toy")(dict(i=1), work, fresh=True)["pair"] == [1, 2] == Runs("demo/toy").get(dict(i=1))["pair"]
    record, = Runs("demo/toy").records()
    assert set(record) == {"key", "config", "result", "provenance", "seconds"}
    assert dict(i=1) in Runs("demo/toy") and dict(i=2) not in Runs("demo/toy")
    found = Runs("demo/toy").get(dict(i=1))
    found["pair"].append(0)
    assert Runs("demo/toy").get(dict(i=1))["pair"] == [1, 2]


def test_scales_do_not_share_records(monkeypatch):
    assert Runs("demo/toy")(dict(i=1), core.current_scale) == "smoke"
    monkeypatch.setenv("TOKENSTUDY_SCALE", "laptop")
    assert Runs("demo/toy")(dict(i=1), core.current_scale) == "laptop"
    assert Runs("demo/toy").path.parts[-3:] == ("laptop", "demo", "toy.sqlite")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_unit_leaves_no_record_and_no_claim(error):
    def fail(): raise error
    with pytest.raises(error): Runs("demo/toy")(dict(i=1), fail)
    assert len(Runs("demo/toy")) == 0
    with pytest.raises(ValueError, match=r"result\['x'\] is nan"): Runs("demo/toy")(dict(i=1), lambda: dict(x=float("nan")))
    assert len(Runs("demo/toy")) == 0
    with Runs("demo/toy").file.reading() as opened: assert opened.execute("SELECT count(*) FROM claims").fetchone() == (0,)


@pytest.mark.parametrize("name", ["", "../x", "a/../../b", "/abs", "a//b", "a/"])
def test_reported_study_names_stay_inside(name, tmp_path):
    with pytest.raises(ValueError, match="named like"): Runs(name)
    with pytest.raises(ValueError, match="named like"): core.published(name, "smoke")
    runs = Runs("demo/toy")
    runs(dict(i=1), partial(square, 1))
    if name:
        with pytest.raises(ValueError, match="named like"): runs.publish(name)
    assert not (tmp_path/"results").exists()


# ---- kills

@pytest.mark.parametrize("after", [0, 1, 7])
def test_killed_process_loses_at_most_the_unit_in_progress(after):
    worker = python(WORKER, 0, 100_000)
    said = [int(worker.stdout.readline()) for _ in range(after + 1)]
    worker.kill()
    rest, _ = worker.communicate()
    last = max(said + [int(n) for n in rest.split()])
    found = {r["config"]["i"]: r["result"]["square"] for r in Runs("demo/toy").records()}
    assert found.items() >= {i: i*i for i in range(last + 1)}.items()
    assert len(found) <= last + 2
    start = time.monotonic()
    assert Runs("demo/toy")(dict(i=last + 1), partial(square, last + 1))["square"] == (last + 1)**2
    assert time.monotonic() - start < 5, "the claim of a dead process is void at once"


@pytest.mark.parametrize("moment", ["in the transaction", "in the commit"])
def test_kill_while_writing_leaves_the_file_as_it_was(moment):
    worker = python("""
        import os, signal, sys
        from tokenstudy.core import record_files
        from tokenstudy.core.record_files import RecordFile
        file = RecordFile(sys.argv[1])
        file.put({"a": "1"*5000})
        class Dying:
            def __init__(self, real): self.real = real
            def __getattr__(self, name): return getattr(self.real, name)
            def executemany(self, command, rows):
                self.real.executemany(command, list(rows)[:2])
                os.kill(os.getpid(), signal.SIGKILL)
            def execute(self, command, *rest):
                if command == "COMMIT": os.kill(os.getpid(), signal.SIGKILL)
                return self.real.execute(command, *rest)
        if sys.argv[2] == "in the commit": Dying.executemany = lambda self, *a: self.real.executemany(*a)
        file._writer = Dying(file._writer)
        file.put({k: "2"*5000 for k in "abc"})
    """, os.environ["TOKENSTUDY_HOME"] + "/f.sqlite", moment)
    worker.communicate()
    assert worker.returncode == -signal.SIGKILL
    file = RecordFile(os.environ["TOKENSTUDY_HOME"] + "/f.sqlite")
    assert file.items() == [("a", "1"*5000)]
    file.put(dict(b="3"))
    assert file.keys() == ["a", "b"]


# ---- damage

def make_file(n=3):
    runs = Runs("demo/toy")
    for i in range(n): runs(dict(i=i), partial(square, i))
    runs.file.close()
    return runs.path, runs.path.read_bytes(), runs.records()


def test_corrupt_no_flipped_bit_is_believed():
    "Any flipped bit: either the records are as they were, or the error names file and way out, or a unit is not found; never another result."
    path, whole, told = make_file(40)
    draw, found = random.Random(0), 0
    used = [i for i in range(len(whole)) if whole[i] or draw.random() < .02]
    for i in draw.sample(used, 300):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << draw.randrange(8)]) + whole[i + 1:])
        runs = Runs("demo/toy")
        try: assert runs.records() == told
        except CorruptFileError as e:
            found += 1
            assert "runs/smoke/demo/toy.sqlite is damaged" in str(e) and ".repair()" in str(e)
        except TokenStudyError as e: assert "newer tokenstudy" in str(e) or "cannot read" in str(e)
        for k in (0, 39):
            try: assert Runs("demo/toy").get(dict(i=k)) in (None, square(k))
            except TokenStudyError: pass
    assert found > 150


def test_damage_test_sees_a_reader_that_believes(monkeypatch):
    "Without the digests, a flipped bit gives another result."
    path, whole, told = make_file(3)
    path.write_bytes(whole.replace(b'"square":4', b'"square":5'))
    with pytest.raises(CorruptFileError, match="sha256"): Runs("demo/toy").records()
    monkeypatch.setattr(RecordFile, "_whole", lambda self, key, body, digest: (key.decode(), body.decode()))
    assert Runs("demo/toy").records() != told


@pytest.mark.parametrize("share", [.3, .6, .95])
def test_corrupt_truncated_file_is_named_and_repaired(share):
    path, whole, told = make_file(60)
    path.write_bytes(whole[:int(len(whole)*share)])
    with pytest.raises(CorruptFileError, match="toy.sqlite is damaged"): Runs("demo/toy").records()
    runs = Runs("demo/toy")
    aside = runs.file.repair()
    assert aside.name == "toy.sqlite.bad" and aside.stat().st_size == int(len(whole)*share)
    kept = runs.records()
    assert all(r in told for r in kept) and [r["config"]["i"] for r in kept] == sorted(r["config"]["i"] for r in kept)
    assert runs(dict(i=59), partial(square, 59)) == square(59)


def test_repair_keeps_what_is_before_and_behind_the_damage():
    path, whole, told = make_file(200)
    at = whole.index(b'"square":10000')                              # in the middle of the middle record's page
    path.write_bytes(whole[:at - 3000] + random.Random(0).randbytes(3000) + whole[at:])
    with pytest.raises(CorruptFileError): Runs("demo/toy").records()
    runs = Runs("demo/toy")
    runs.file.repair()
    kept = [r["config"]["i"] for r in runs.records()]
    assert 0 in kept and 199 in kept and 150 < len(kept) < 200


@pytest.mark.parametrize("text", [b"no database at all"*300, b"\0"*9000, b"SQLite format 3\0" + b"\xff"*5000], ids=["text", "zeros", "header only"])
def test_what_is_no_database_is_named(text):
    path, *_ = make_file(1)
    path.write_bytes(text)
    with pytest.raises(CorruptFileError, match="toy.sqlite is damaged"): Runs("demo/toy").records()
    with pytest.raises(CorruptFileError, match="toy.sqlite is damaged"): Runs("demo/toy")(dict(i=9), never)


def test_files_of_before_are_told(tmp_path):
    old = tmp_path/"runs"/"smoke"/"demo"/"toy.jsonl"
    old.parent.mkdir(parents=True)
    old.write_text('{"key": "k"}\n')
    with pytest.warns(UserWarning, match=r"runs/smoke/demo/toy.jsonl is of an earlier"): runs = Runs("demo/toy")
    assert runs(dict(i=1), partial(square, 1)) == square(1) and old.read_text() == '{"key": "k"}\n'
    for use in (lambda f: f.items(), lambda f: f.put(dict(a="1"))):
        with pytest.raises(TokenStudyError, match="JSON lines"): use(RecordFile(old))
    newer = RecordFile(tmp_path/"n.sqlite")
    newer.put(dict(a="1"))
    newer.close()
    with sqlite3.connect(tmp_path/"n.sqlite") as c: c.execute("PRAGMA user_version = 2")
    with pytest.raises(TokenStudyError, match="newer tokenstudy"): RecordFile(tmp_path/"n.sqlite").items()


# ---- full disks and folders that are read-only

READER = """
    import os, sys
    import psutil
    from tokenstudy.core import Runs, record_files
    from tokenstudy.core.scales import TokenStudyError
    if os.geteuid() == 0:
        os.setgid(65534); os.setuid(65534)                            # root could write anywhere
    runs = Runs("demo/toy", sys.argv[1])
    print(sorted(r["config"]["i"] for r in runs.records()), runs.get({"i": 0}), len(runs), {"i": 1} in runs)
    def vain(): print("worked in vain")
    try: runs({"i": 9}, vain)
    except TokenStudyError as e: print(e)
"""


@pytest.fixture
def open_folder():
    "A folder that other users can enter, which pytest's own are not."
    import tempfile
    folder = Path(tempfile.mkdtemp(dir="/tmp" if os.path.isdir("/tmp") else None))
    folder.chmod(0o755)
    yield folder
    for f in [folder, *folder.rglob("*")]:
        if f.is_dir(): f.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed, with a log"])
def test_reported_a_read_only_folder_is_readable_and_said_before_any_work(open_folder, killed):
    code = "import os, sys; from tokenstudy.core import Runs; runs = Runs('demo/toy', sys.argv[1])\nfor i in range(2): runs({'i': i}, lambda: {'square': i*i})\n"
    python(code + ("os._exit(1)" if killed else ""), open_folder).communicate()
    folder = open_folder/"runs"/"smoke"/"demo"
    assert (folder/"toy.sqlite-wal").exists() == killed
    if killed: (folder/"toy.sqlite-shm").unlink()                     # as a copy to a disk of backups would leave it
    for f in folder.iterdir(): f.chmod(0o444)
    folder.chmod(0o555)
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    told, errors = python(READER, open_folder, stderr=subprocess.PIPE).communicate()
    assert told.splitlines()[0] == "[0, 1] {'square': 0} 2 True", told + errors
    assert "cannot write runs/smoke/demo/toy.sqlite" in told and "TOKENSTUDY_HOME" in told and "vain" not in told
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


@pytest.fixture
def small_disk(tmp_path):
    "A file system of two megabytes."
    place = tmp_path/"disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("may not mount a file system here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_reported_a_full_disk_leaves_the_records_readable(small_disk):
    runs = Runs("demo/toy", small_disk)
    for i in range(5): runs(dict(i=i), partial(square, i))
    with pytest.raises(TokenStudyError, match="cannot write runs/smoke/demo/toy.sqlite .*make room"): runs(dict(i=9), lambda: "x"*3_000_000)
    filler = small_disk/"filler"
    with pytest.raises(OSError), open(filler, "wb") as f:
        while True: f.write(b"x"*4096); f.flush()
    for fresh in (runs, Runs("demo/toy", small_disk)):
        assert [r["config"]["i"] for r in fresh.records()] == list(range(5)) and fresh.get(dict(i=3)) == square(3)
        with pytest.raises(TokenStudyError, match="cannot write"): fresh(dict(i=9), lambda: "x"*3_000_000)
    runs.file.close()
    assert len(Runs("demo/toy", small_disk).records()) == 5
    filler.unlink()
    assert runs(dict(i=9), partial(square, 9)) == square(9) and len(runs) == 6


def test_a_full_file_is_said(monkeypatch):
    runs, opening = Runs("demo/toy"), record_files._open
    runs(dict(i=0), partial(square, 0))
    runs.file.close()
    def full(path, options):
        opened = opening(path, options)
        opened.execute(f"PRAGMA max_page_count = {opened.execute('PRAGMA page_count').fetchone()[0]}")
        return opened
    monkeypatch.setattr(record_files, "_open", full)
    with pytest.raises(TokenStudyError, match="cannot write .*full"): runs(dict(i=1), lambda: "x"*10_000)
    assert runs.get(dict(i=0)) == square(0) and len(runs) == 1


def test_folder_that_cannot_be_made_is_said_before_any_work(tmp_path):
    (tmp_path/"runs").write_text("a file in the way")
    with pytest.raises(TokenStudyError, match="cannot write runs/smoke/demo/toy.sqlite .*TOKENSTUDY_HOME"):
        Runs("demo/toy")(dict(i=1), lambda: pytest.fail("worked in vain"))


def test_reported_helpers_of_a_killed_writer_are_gone_after_the_next():
    code = "import os; from tokenstudy.core import Runs; runs = Runs('demo/toy')\nfor i in range(3): runs({'i': i}, lambda: {'square': i*i})\nos.kill(os.getpid(), 9)"
    python(code).communicate()
    runs = Runs("demo/toy")
    assert {p.suffix for p in runs.path.parent.iterdir()} == {".sqlite", ".sqlite-wal", ".sqlite-shm"}
    assert runs.get(dict(i=2)) == square(2)
    runs(dict(i=3), partial(square, 3))
    runs.file.close()
    assert [p.name for p in runs.path.parent.iterdir()] == ["toy.sqlite"] and len(runs) == 4


# ---- several at once

def test_reported_processes_share_a_file_and_no_unit_is_computed_twice(tmp_path):
    code = """
        import os, sys, time
        from functools import partial
        from tokenstudy.core import Runs
        def work(i):
            with open(sys.argv[1], "a") as f: f.write(f"{i}\\n")
            time.sleep(.02)
            return i*i
        runs = Runs("demo/toy")
        print(sum(runs({"i": i}, partial(work, i)) for i in range(25)))
    """
    workers = [python(code, tmp_path/"worked") for _ in range(3)]
    assert [w.communicate()[0].strip() for w in workers] == [str(sum(i*i for i in range(25)))]*3
    worked = (tmp_path/"worked").read_text().split()
    assert sorted(map(int, worked)) == list(range(25)), f"{len(worked)} computations of 25 units"
    assert len(Runs("demo/toy")) == 25


def test_a_claim_holds_while_its_process_lives_and_no_longer(monkeypatch, tmp_path):
    file = RecordFile(tmp_path/"f.sqlite")
    with file.claim("k", lambda: False) as ours:
        assert ours and not record_files._take(file, "k", "somebody else")
        assert record_files._take(file, "other", "somebody else")
    assert record_files._take(file, "k", "a")
    monkeypatch.setattr(record_files, "_lives", lambda pid: False)
    assert record_files._take(file, "k", "b")
    monkeypatch.setattr(record_files, "_lives", lambda pid: True)
    assert not record_files._take(file, "k", "c")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 31)
    assert record_files._take(file, "k", "c"), "not renewed for half a minute"


def test_a_claim_is_renewed(monkeypatch, tmp_path):
    monkeypatch.setattr(record_files, "_LEASE", .3)
    file = RecordFile(tmp_path/"f.sqlite")
    with file.claim("k", lambda: False):
        for _ in range(8):
            time.sleep(.1)
            assert not record_files._take(file, "k", "somebody else")


def test_one_process_sees_what_another_finished():
    runs = Runs("demo/toy")
    assert len(runs) == 0
    python(WORKER, 0, 3).communicate()
    assert runs.get(dict(i=2))["square"] == 4


def test_forked_processes_and_threads_share_an_object():
    import threading
    runs = Runs("demo/toy")
    runs(dict(i=0), partial(square, 0))
    if hasattr(os, "fork"):
        if not (pid := os.fork()):
            try: runs(dict(i=1), partial(square, 1))
            finally: os._exit(0)
        os.waitpid(pid, 0)
    threads = [threading.Thread(target=runs, args=(dict(i=i), partial(square, i))) for i in range(1, 9)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert sorted(r["config"]["i"] for r in runs.records()) == list(range(9))


def test_set_aside_begins_anew_for_all():
    runs, other = Runs("demo/toy"), Runs("demo/toy")
    for i in range(3): runs(dict(i=i), partial(square, i))
    assert len(other) == 3
    old = other.file.set_aside()
    assert old.name == "toy.sqlite.old" and len(RecordFile(old)) == 3
    assert len(runs) == len(other) == 0 and other.file.set_aside() is None
    runs(dict(i=1), partial(square, 1))
    assert len(other) == 1 and len(RecordFile(other.file.set_aside())) == 1


def test_reported_a_record_is_found_through_an_index(tmp_path):
    "The time for a look-up does not grow with the file, nor does that for one more record."
    file, clock = RecordFile(tmp_path/"f.sqlite"), time.process_time
    def cost():
        start = clock()
        for i in range(60): file.get("k3"); file.put({f"new{i}": "y"*2000})
        return clock() - start
    file.put({f"k{i}": "x"*2000 for i in range(20)})
    cost()
    few = min(cost() for _ in range(3))
    file.put({f"k{i}": "x"*2000 for i in range(20, 6000)})
    assert min(cost() for _ in range(3)) < 3*few + .02
    with file.reading() as opened:
        plan = opened.execute("EXPLAIN QUERY PLAN SELECT body FROM rows WHERE key = 'k3'").fetchall()
    assert b"INDEX" in plan[0][-1]


# ---- the code behind a record

def test_a_unit_whose_function_changed_is_computed_again():
    def before(i): return i + 1
    def after(i): return i + 2
    runs = Runs("demo/toy")
    assert runs(dict(i=1), partial(before, 1)) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runs(dict(i=1), partial(before, 1)) == 2 == runs.get(dict(i=1), fn=partial(before, 1))
    with pytest.warns(UserWarning, match="made by other code"): assert runs.get(dict(i=1), fn=partial(after, 1)) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")                                # told once
        assert runs(dict(i=1), partial(after, 1)) == 3 == runs.get(dict(i=1))
    assert len(runs) == 1


UNIT = """
    import sys, warnings
    from tokenstudy import core
    def unit(): return core.bootstrap_interval([1., 2., 3.])[0]
    runs = core.Runs("demo/toy")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        print(runs({}, unit))
        runs.publish()
        core.published("demo/toy", "smoke")
    for w in said: print(w.message)
    print([core.made_by_other_code(r) for r in core.published("demo/toy", "smoke")])
"""


def test_reported_an_edit_of_the_library_changes_the_numbers(tmp_path):
    "What a unit reaches is edited: it is computed again. What it does not reach: it is not."
    copy = tmp_path/"copy"/"tokenstudy"
    shutil.copytree(ROOT/"tokenstudy", copy, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    script = tmp_path/"unit.py"
    script.write_text(textwrap.dedent(UNIT))
    def run():
        done = subprocess.run([sys.executable, script], env=os.environ | dict(PYTHONPATH=str(copy.parent)), capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return done.stdout.splitlines()
    assert run() == ["2.0", "[False]"]
    with open(copy/"core"/"bench.py", "a") as f: f.write("\nEDITED = 1\n")
    with open(copy/"core"/"statistics.py", "a") as f: f.write("\n# a comment\n")
    assert run() == ["2.0", "[False]"]
    with open(copy/"core"/"statistics.py", "a") as f:
        f.write("\n_interval = bootstrap_interval\ndef bootstrap_interval(*a, **k):\n    m, l, h = _interval(*a, **k)\n    return m + 100, l + 100, h + 100\n")
    # the committed record of before is shown with a note, the working one is made again
    told = run()
    assert told[0] == "102.0" and "made by other code" in told[1] and told[-1] == "[False]"


def test_reported_committed_records_of_other_code_are_shown_with_a_note(tmp_path, monkeypatch):
    runs = Runs("demo/toy")
    runs(dict(i=1), core.current_scale)                               # a function of ours: its modules are noted
    runs.publish()
    record, = core.published("demo/toy", "smoke")
    assert record["provenance"]["code"]["modules"] == ["tokenstudy.core.scales"] and not core.made_by_other_code(record)
    monkeypatch.setattr(records, "code_fingerprint", lambda *modules: "other")
    with pytest.warns(UserWarning, match="results/demo/toy/smoke.jsonl: 1 of 1 records were made by other code"):
        assert core.published("demo/toy", "smoke") == [record]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert core.published("demo/toy", "smoke") == [record] and core.made_by_other_code(record)
    monkeypatch.undo()
    for code in (None, dict(record["provenance"]["code"], modules=["tokenstudy.gone"])):
        assert core.made_by_other_code(dict(record, provenance=dict(code=code) if code else {}))


def test_in_a_notebook_the_note_is_a_line_of_the_output(monkeypatch, capsys):
    runs = Runs("demo/toy")
    runs(dict(i=1), core.current_scale)
    runs.publish()
    monkeypatch.setattr(records, "code_fingerprint", lambda *modules: "other")
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=object))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core.published("demo/toy", "smoke")
    said = capsys.readouterr()
    assert not said.out + said.err, "who says it in another way can silence it"
    monkeypatch.setattr(records, "_WARNED", set())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show = warnings.showwarning
        core.published("demo/toy", "smoke")
        assert warnings.showwarning is show
    said = capsys.readouterr()
    assert said.out == "Note: results/demo/toy/smoke.jsonl: 1 of 1 records were made by other code than that of this library.\n" and not said.err


# ---- published records

def test_published_records_can_be_read_back(tmp_path):
    runs = Runs("demo/toy")
    with pytest.raises(ValueError, match="no records"): runs.publish()
    runs(dict(i=1), partial(square, 1))
    runs(dict(i=1), partial(square, 2), fresh=True)
    assert runs.publish() == tmp_path/"results"/"demo"/"toy"/"smoke.jsonl"
    assert core.published("demo/toy", "smoke") == runs.records() and len(runs.records()) == 1
    runs.publish("kept")
    assert core.published("kept", "smoke") == runs.records()
    assert core.published("demo/none", "smoke") == []
    line = (tmp_path/"results"/"kept"/"smoke.jsonl").read_text()
    assert line.count("\n") == 1 and json.loads(line)["result"] == square(2)


def line(i): return json.dumps(records.make_record("kept", "smoke", dict(i=i), dict(x=i/2), fn=square))


@pytest.mark.parametrize("damage, message", [
    (lambda text: "{}", "not a record"), (lambda text: text[:-9], "line 2"), (lambda text: text + text, "Extra data"), (lambda text: text.replace('"x": 0.5', '"x": 0.75'), "digest"),
    (lambda text: text.replace('"i": 1', '"i": 3'), "digest"), (lambda text: text.replace("0.5", "NaN"), "not a number"), (lambda text: "["*100_000, "line 2"), (lambda text: "null", "not a record"),
    (lambda text: line(0), "the unit .* is there twice"), (lambda text: text + text.replace('"x": 0.5', '"x": 0.75'), "Extra data"), (lambda text: text.replace("0.5", "1e999"), "digest")],
    ids=["empty", "cut", "two in one", "other result", "other config", "NaN", "deep", "null", "twice", "two in one, one edited", "infinite"])
def test_reported_damaged_published_lines_are_named(tmp_path, damage, message):
    file = tmp_path/"results"/"kept"/"smoke.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join([line(0), line(1), line(2), ""]))
    assert len(core.published("kept", "smoke")) == 3
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))        # as some editors leave it
    assert len(core.published("kept", "smoke")) == 3
    file.write_text("\n".join([line(0), damage(line(1)), line(2), ""]))
    with pytest.raises(CorruptFileError, match=f"results/kept/smoke.jsonl, line 2.*{message}" if message != "line 2" else message): core.published("kept", "smoke")


def test_reported_the_count_of_records_is_told_exactly(tmp_path, monkeypatch):
    "A mark of the byte order, ends of lines of three kinds, empty lines: five records, of which two are of other code."
    other = [records.make_record("kept", "smoke", dict(i=i), i) for i in (7, 8)]
    lines = [line(0), line(1), json.dumps(other[0]), line(2), json.dumps(other[1])]
    file = tmp_path/"results"/"kept"/"smoke.jsonl"
    file.parent.mkdir(parents=True)
    for end in ("\n", "\r\n", "\n\n", "\r\n \r\n"):
        file.write_bytes(b"\xef\xbb\xbf" + (end.join(lines) + end).encode())
        monkeypatch.setattr(records, "_WARNED", set())
        with pytest.warns(UserWarning, match="results/kept/smoke.jsonl: 2 of 5 records"): assert [r["config"]["i"] for r in core.published("kept", "smoke")] == [0, 1, 7, 2, 8]
    file.write_bytes("\r".join(lines).encode())
    with pytest.raises(CorruptFileError, match="line 1"): core.published("kept", "smoke")


def test_committed_records_stay_readable():
    files = sorted((ROOT/"results").rglob("*.jsonl"))
    assert files
    for file in files:
        study = file.parent.relative_to(ROOT/"results").as_posix()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = core.published(study, file.stem, ROOT)
        assert len(found) == len(file.read_text().splitlines())
        assert all(len(r["key"]) == 16 for r in found)


def test_a_file_that_stays_locked_is_said(monkeypatch, tmp_path):
    file, opening = RecordFile(tmp_path/"f.sqlite"), record_files._open
    file.put(dict(a="1"))
    file.close()
    def impatient(path, options):
        opened = opening(path, options)
        opened.execute("PRAGMA busy_timeout = 50")
        return opened
    monkeypatch.setattr(record_files, "_open", impatient)
    holder = sqlite3.connect(tmp_path/"f.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert file.get("a") == "1", "reading goes on"
    with pytest.raises(TokenStudyError, match="another process has kept it locked"): file.put(dict(b="2"))
    holder.execute("ROLLBACK")
    file.put(dict(b="2"))
    assert file.keys() == ["a", "b"]


def test_a_relative_path_stays_where_it_was(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = RecordFile("f.sqlite")
    (tmp_path/"below").mkdir()
    monkeypatch.chdir(tmp_path/"below")
    file.put(dict(a="1"))
    assert RecordFile(tmp_path/"f.sqlite").get("a") == "1"


class Counted:
    "An object that can be called, with an address in its repr and nothing that could be hashed."
    calls = 0
    def __call__(self, *_): Counted.calls += 1; return Counted.calls
    def method(self): return self()


def plus(n, by): return n + by(n)
def double(n): return 2*n
def triple(n): return 3*n


def test_the_code_is_recognised_whatever_is_called():
    "Objects, bound methods and partials with arguments that have no fingerprint: known again by their code."
    runs = Runs("demo/toy")
    for i, make in enumerate((Counted, lambda: Counted().method, lambda: partial(Counted(), object()))):
        before = runs(dict(i=i), make())
        assert runs(dict(i=i), make()) == before and Counted.calls == i + 1
    assert runs(dict(n=1), partial(plus, 1, by=double)) == 3 and runs(dict(n=1), partial(plus, 1, by=double)) == 3
    with pytest.warns(UserWarning, match="made by other code"): assert runs(dict(n=1), partial(plus, 1, by=triple)) == 4
    assert core.records.code_behind(partial(plus, 1, by=core.wilson))["modules"] == ["tokenstudy.core.statistics"]
