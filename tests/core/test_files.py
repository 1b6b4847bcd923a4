"core.files: a file is whole or not there, whoever is killed; assets are what the manifest says."
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tokenstudy import core
from tokenstudy.core.scales import CorruptFileError

def python(code: str, *args, **kw) -> subprocess.Popen:
    "A process of this interpreter that runs some code."
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, args)], stdout=subprocess.PIPE, text=True, **kw)


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
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path/'f'}'"): core.atomic_write(tmp_path/"f", "new")
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


def test_files_of_killed_writers_are_swept_and_those_of_living_ones_stay(tmp_path):
    code = """
        import os, signal, sys
        from tokenstudy import core
        from tokenstudy.core import files
        def stop(*a): print("here", flush=True); sys.stdin.read(1)
        files.os.fsync = stop
        core.atomic_write(sys.argv[1], "half")
    """
    slow, dead = (python(code, tmp_path/"f", stdin=subprocess.PIPE) for _ in range(2))
    for process in (slow, dead): assert process.stdout.readline() == "here\n"
    dead.kill()
    dead.wait()
    assert len(list(tmp_path.glob(".f.*.partial"))) == 2
    core.atomic_write(tmp_path/"f", "new")
    assert len(list(tmp_path.glob(".f.*.partial"))) == 1
    slow.communicate("x")
    assert slow.returncode == 0 and (tmp_path/"f").read_text() == "half" and os.listdir(tmp_path) == ["f"]


def test_where_there_are_no_locks_only_the_old_is_swept(tmp_path, monkeypatch):
    from tokenstudy.core import files
    monkeypatch.setattr(files, "fcntl", None)
    old, new = (tmp_path/f".f.{name}.partial" for name in ("old", "new"))
    old.touch(), new.touch()
    os.utime(old, (0, 0))
    core.atomic_write(tmp_path/"f", "x")
    assert new.exists() and not old.exists()


def test_names_with_brackets_sweep_only_their_own(tmp_path):
    other = tmp_path/".fa.1.partial"
    other.touch()
    core.atomic_write(tmp_path/"f[a]", "x")
    core.sweep_leftovers(tmp_path/"f[a]")
    assert other.exists()


def test_writers_of_one_file_at_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(8) as pool: list(pool.map(lambda i: core.atomic_write(tmp_path/"f", str(i)*1000), range(60)))
    text = (tmp_path/"f").read_text()
    assert text == text[:len(text)//1000]*1000 and os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("folder", (False, True))
def test_a_sweeper_that_was_faster_deletes_nothing_that_is_made_later(tmp_path, monkeypatch, folder):
    """It got the lock of the new neighbour before its writer, and deletes that name when the writer
    has long made another."""
    from tokenstudy.core import files
    locked, fsync, lost = files._locked, os.fsync, []
    def faster(fd):
        if lost: return locked(fd)
        lost.extend(tmp_path.glob(".f.*.partial"))
        return False
    def sweep_then_sync(fd):
        shutil.rmtree(lost[0], ignore_errors=True) if folder else lost[0].unlink(missing_ok=True)
        fsync(fd)
    monkeypatch.setattr(files, "_locked", faster)
    monkeypatch.setattr(os, "fsync", sweep_then_sync)
    if folder:
        with core.atomic_folder(tmp_path/"f") as d: (d/"x").write_text("whole")
        assert (tmp_path/"f"/"x").read_text() == "whole"
    else: assert core.atomic_write(tmp_path/"f", "whole").read_text() == "whole"
    assert len(lost) == 1 and os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("path", ("", ".", "/"))
def test_a_path_without_a_name_is_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="empty name|must be a path"): core.atomic_write(path, "text")
    with pytest.raises(ValueError, match="empty name|must be a path"):
        with core.atomic_folder(path): pass
    assert os.listdir(tmp_path) == []


def test_reported_mode_and_links_are_kept(tmp_path):
    f = core.atomic_write(tmp_path/"f", "one")
    umask = os.umask(0)
    os.umask(umask)
    assert f.stat().st_mode & 0o777 == 0o666 & ~umask
    f.chmod(0o640)
    (tmp_path/"deep").mkdir()
    link, gone = tmp_path/"deep"/"link", tmp_path/"gone"
    link.symlink_to("../f")
    gone.symlink_to("new")
    assert core.atomic_write(link, "two") == link and link.is_symlink() and f.read_text() == "two"
    assert f.stat().st_mode & 0o777 == 0o640
    core.atomic_write(gone, "three")
    assert gone.is_symlink() and (tmp_path/"new").read_text() == "three"


# ---- asked before long work

@pytest.fixture
def mounted(tmp_path):
    "Mounts a small file system of memory, with options."
    place = tmp_path/"disk"
    place.mkdir()
    def mount(options):
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True).returncode: pytest.skip("may not mount a file system here")
        return place
    yield mount
    subprocess.run(["umount", "-l", str(place)], capture_output=True)


def fill(place):
    with pytest.raises(OSError), open(place/"filler", "wb") as f:
        while True: f.write(b"x"*4096); f.flush()


def test_reported_read_only_folders_are_found_before_work(mounted):
    place = mounted("ro,size=64k")
    for folder in (place, place/"below"/"it"):
        with pytest.raises(core.TokenStudyError, match=r"cannot write to .*Read-only file system.*choose another folder"): core.check_writable(folder)


def test_reported_full_disks_are_found_before_work(mounted):
    place = mounted("size=64k")
    core.check_writable(place, 30_000)
    with pytest.raises(core.TokenStudyError, match=r"0.1 MB are needed there, and 0.0\d+ MB are free.*make room"): core.check_writable(place/"new", 100_000)
    assert os.listdir(place) == []
    fill(place)
    with pytest.raises(core.TokenStudyError, match="No space left on device"): core.check_writable(place)


def test_reported_disks_that_fill_up_are_said_whoever_writes(mounted):
    import torch
    from safetensors.torch import save_file
    place = mounted("size=64k")
    tensors = dict(t=torch.zeros(50_000))
    for write in (lambda: save_file(tensors, place/"t.safetensors"), lambda: (place/"t").write_bytes(bytes(200_000)), lambda: core.atomic_write(place/"t", bytes(200_000))):
        with pytest.raises(core.TokenStudyError, match="cannot write the weights .*No space left on device.*; make room"), core.writing("the weights"): write()
        for left in place.iterdir(): left.unlink()
    with pytest.raises(ValueError, match="of its own"), core.writing("the weights"): raise ValueError("of its own")
    with core.writing("the weights"): (place/"t").write_text("fits")


def test_reported_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path/"file").write_text("kept")
    (tmp_path/"loose").symlink_to("nowhere")
    for name in ("file", "file/below", "loose", "loose/below"):
        with pytest.raises(core.TokenStudyError, match=rf"cannot write to .*{name.split('/')[0]} is not a folder.*choose another"): core.check_writable(tmp_path/name)
    (tmp_path/"there").mkdir()
    (tmp_path/"link").symlink_to("there")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    for name in ("there", "link", "link/new/newer", "."): core.check_writable(tmp_path/name)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before and (tmp_path/"file").read_text() == "kept"


def test_reported_scratch_folders_for_sockets_have_short_paths(tmp_path, monkeypatch):
    deep = tmp_path/("d"*70)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with core.scratch_folder("t") as folder: assert folder.parent == deep
    with core.scratch_folder("t", longest=60) as folder: assert folder.parent == Path("/tmp") and len(os.fsencode(folder)) <= 60
    exactly = len(os.fsencode(deep/".t.0123456789ab.partial"))
    with core.scratch_folder("t", longest=exactly) as folder: assert folder.parent == deep
    with core.scratch_folder("t", longest=exactly - 1) as folder: assert folder.parent == Path("/tmp")
    with pytest.raises(core.TokenStudyError, match="too long a path for sockets; set TMPDIR"):
        with core.scratch_folder("t", longest=20): pass


def test_scratch_folders_of_killed_processes_are_swept(tmp_path):
    code = """
        import os, sys
        from tokenstudy import core
        with core.scratch_folder() as folder:
            (folder/"socket").touch()
            print(folder, oct(folder.stat().st_mode)[-3:], flush=True)
            if sys.argv[1] == "dies": os.kill(os.getpid(), 9)
            sys.stdin.read(1)
    """
    env = os.environ | dict(TMPDIR=str(tmp_path))
    def start(how):
        process = python(code, how, stdin=subprocess.PIPE, env=env)
        return process, *process.stdout.readline().split()
    (lives, here, mode), (dies, left, _) = start("lives"), start("dies")
    assert mode == "700" and dies.wait() == -signal.SIGKILL and os.path.exists(left)
    third, *_ = start("lives")
    assert os.path.exists(here) and not os.path.exists(left)
    for process in (lives, third): process.communicate("x")
    assert os.listdir(tmp_path) == []


# ---- assets

@pytest.fixture
def assets(tmp_path, monkeypatch):
    (tmp_path/"assets").mkdir()
    monkeypatch.setattr("tokenstudy.core.files.assets_dir", lambda: tmp_path/"assets")
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
