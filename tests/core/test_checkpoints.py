"core.checkpoints: the old state or the new one, whatever is killed; the bytes that were written, or an error that names the file."
import json
import os
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tokenstudy import core
from tokenstudy.core import checkpoints
from tokenstudy.core.checkpoints import load_checkpoint, save_checkpoint


def state(step):
    "Something like a training's state, which depends on the step."
    rng = np.random.default_rng(step)
    return dict(step=step, rows=torch.full((2, 3), float(step)), half=torch.full((2,), step, dtype=torch.bfloat16),
                optimizer={"state": {0: dict(step=torch.tensor(float(step)))}, "groups": [dict(betas=(.9, .98))]},
                rng=rng.bit_generator.state, log=[dict(loss=.1*step)])


def same(a, b):
    if isinstance(a, torch.Tensor): return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray): return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict): return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a and b != b)


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(
    [torch.arange(3), torch.zeros(0), torch.tensor(True), np.arange(4.).reshape(2, 2), np.array(3, dtype=np.uint8)]))
KEYS = st.one_of(st.text(max_size=4), st.integers(), st.sampled_from(["$tensor", "$dict", "$tuple", "$float", "$array"]))

@given(st.recursive(LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple),
                                                    st.dictionaries(KEYS, inner, max_size=3)), max_leaves=12))
def test_any_state_comes_back(value):
    tensors, plain = checkpoints.split_state(value)
    assert same(value, checkpoints.join_state(tensors, json.loads(json.dumps(plain))))


def test_state_and_identity_come_back(tmp_path):
    save_checkpoint(tmp_path/"a", state(3), identity=dict(lr=.1, betas=(.9, .98)))
    found = load_checkpoint(tmp_path/"a", identity=dict(betas=[.9, .98], lr=.1))
    assert same(found.state, state(3)) and found.identity == dict(lr=.1, betas=[.9, .98])
    assert load_checkpoint(tmp_path/"b") is None and not (tmp_path/"b").exists()
    (tmp_path/"empty").mkdir()
    assert load_checkpoint(tmp_path/"empty") is None


def test_optimizer_goes_on_with_the_same_bits(tmp_path):
    def model(): return torch.nn.Linear(3, 2, dtype=torch.float32)
    def steps(m, o, seeds):
        for seed in seeds:
            o.zero_grad()
            m(torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
            o.step()
    for make in (lambda m: torch.optim.AdamW([dict(params=[m.weight], weight_decay=.1), dict(params=[m.bias])], lr=.1),
                 lambda m: torch.optim.Adam(m.parameters(), amsgrad=True), lambda m: torch.optim.SGD(m.parameters(), .1, .9)):
        a = model()
        o = make(a)
        steps(a, o, range(3))
        save_checkpoint(tmp_path/"o", dict(model=a.state_dict(), optimizer=o.state_dict()))
        b, found = model(), load_checkpoint(tmp_path/"o").state
        p = make(b)
        b.load_state_dict(found["model"])
        p.load_state_dict(found["optimizer"])
        for m, x in ((a, o), (b, p)): steps(m, x, range(3, 6))
        assert all(map(torch.equal, a.parameters(), b.parameters()))


# ---- what is killed leaves the old or the new checkpoint, and nothing that stays

KILLER = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[2])
    import test_checkpoints as t
    from tokenstudy.core import delete_checkpoint, load_checkpoint, save_checkpoint
    folder, what = sys.argv[1], sys.argv[3]
    save_checkpoint(folder + "-warm", t.state(0)) # whatever is imported on the way
    def attempt(moment):
        "Do it in a child that is killed just before its n-th look at the disk; whether it got to the end."
        child = os.fork()
        if not child:
            left = [moment]
            def hook(event, args):
                if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"): return
                if not str(args[0]).startswith(folder): return
                left[0] -= 1
                if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)
            sys.addaudithook(hook)
            delete_checkpoint(folder) if what == "delete" else save_checkpoint(folder, t.state(2), identity=dict(b=2))
            os._exit(0)
        return os.waitpid(child, 0)[1] == 0
    seen, moment, done = [], 0, False
    while not done:
        if what != "first": save_checkpoint(folder, t.state(1), identity=dict(a=1))
        done = attempt(moment)
        found = load_checkpoint(folder)
        seen.append(0 if found is None else found.state["step"])
        if found is not None: assert t.same(found.state, t.state(seen[-1])) and found.identity == (dict(a=1) if seen[-1] == 1 else dict(b=2))
        save_checkpoint(folder, t.state(3))                    # the next save takes the debris away
        assert len([f for f in os.listdir(folder) if f != ".lock"]) == 3, os.listdir(folder)
        if what == "first": delete_checkpoint(folder); assert not os.path.exists(folder)
        moment += 1
    print(*seen)
"""

@pytest.mark.parametrize("what, start, end", [("replace", 1, 2), ("first", 0, 2), ("delete", 1, 0)])
def test_kill_at_any_moment_leaves_one_of_the_two(tmp_path, what, start, end):
    here = os.path.dirname(__file__)
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLER), str(tmp_path/"c"), here, what],
                         capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=os.pathsep.join(
                             [os.path.dirname(here), *os.environ.get("PYTHONPATH", "").split(os.pathsep), os.getcwd()])))
    assert ran.returncode == 0, ran.stderr
    seen = [int(x) for x in ran.stdout.split()]
    assert len(seen) > 5 and seen[0] == start and seen[-1] == end and set(seen) == {start, end}
    assert seen == sorted(seen, key=[start, end].index)        # one moment from which the new state holds


# ---- damage

@pytest.fixture
def folder(tmp_path): return save_checkpoint(tmp_path/"c", state(1), identity=dict(lr=.1))

def files(folder): return sorted(p for p in folder.iterdir() if p.name != ".lock")


def test_corrupt_every_flipped_bit_is_found_and_named(folder):
    assert len(files(folder)) == 3
    for path in files(folder):
        whole = path.read_bytes()
        for i in range(0, 8*len(whole), 13):
            path.write_bytes(whole[:i//8] + bytes([whole[i//8] ^ 1 << i % 8]) + whole[i//8 + 1:])
            with pytest.raises(core.CorruptFileError) as e: load_checkpoint(folder)
            assert str(path) in str(e.value) and "resume=False" in str(e.value)
        path.write_bytes(whole)
    assert same(load_checkpoint(folder).state, state(1))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_corrupt_truncated_longer_and_missing_files_are_named(folder, which):
    path = files(folder)[which]
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:len(whole)//2], whole + b"\n", None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(core.CorruptFileError, match="delete the folder .*resume=False") as e: load_checkpoint(folder)
        assert path.name in str(e.value)
        if damaged is None: assert "missing" in str(e.value)
    save_checkpoint(folder, state(2))
    assert same(load_checkpoint(folder).state, state(2)) and len(files(folder)) == 3


@pytest.mark.parametrize("text", ["{}", "[]", "null", "3", '"x"', '{"digest": 1}', '{"format": 1, "digest": "x", "files": {}, "identity": {}}'])
def test_corrupt_emptied_manifest_is_damage(folder, text):
    (folder/"manifest.json").write_text(text)
    with pytest.raises(core.CorruptFileError, match="manifest.json is damaged"): load_checkpoint(folder)


def test_manifest_of_other_spacing_or_without_a_file_is_damage(folder):
    path = folder/"manifest.json"
    entries = json.loads(path.read_text())
    for changed in (json.dumps(entries), json.dumps(entries | dict(files={}), indent=1, sort_keys=True) + "\n",
                    json.dumps(entries | dict(identity={}), indent=1, sort_keys=True) + "\n"):
        path.write_text(changed)
        with pytest.raises(core.CorruptFileError, match="digest"): load_checkpoint(folder)


# ---- other trainings, other users

def test_another_training_is_told_what_differs(folder):
    with pytest.raises(core.CheckpointError, match="lr: 0.1 there, 0.2 now; data: absent there, \"3f\" now.*resume=False"):
        load_checkpoint(folder, identity=dict(lr=.2, data="3f"))
    with pytest.raises(ValueError, match="lr: 0.1 there, absent now"): load_checkpoint(folder, identity={})
    with pytest.raises(core.TokenStudyError): load_checkpoint(folder, identity=dict(lr=1))
    assert load_checkpoint(folder, identity=dict(lr=.1))


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path):
    (tmp_path/"old").write_bytes(b"single file")
    with pytest.raises(core.CheckpointError, match="is a file"): load_checkpoint(tmp_path/"old")
    with pytest.raises(core.TokenStudyError, match="cannot write the checkpoint"): save_checkpoint(tmp_path/"old", {})
    core.delete_checkpoint(tmp_path/"old")
    core.delete_checkpoint(tmp_path/"old")


def test_what_cannot_be_kept_leaves_the_old_state(folder, monkeypatch):
    before = {p.name: p.read_bytes() for p in files(folder)}
    with pytest.raises(ValueError, match=r"state\['a'\]\[1\] is of type object"): save_checkpoint(folder, dict(a=[1, object()]))
    with pytest.raises(ValueError, match="identity"): save_checkpoint(folder, {}, identity=dict(x=float("nan")))
    def full(*a): raise OSError(28, "No space left on device")
    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(core.TokenStudyError, match="No space left.*untouched"): save_checkpoint(folder, state(2))
    monkeypatch.undo()
    monkeypatch.setattr(checkpoints, "sync_folder", full)
    with pytest.raises(core.TokenStudyError, match="No space left"): save_checkpoint(folder, state(2))
    assert {p.name: p.read_bytes() for p in files(folder)} == before


def test_reading_does_not_write(folder):
    os.chmod(folder, 0o555)
    try: before = os.stat(folder).st_mtime_ns; assert load_checkpoint(folder); assert os.stat(folder).st_mtime_ns == before
    finally: os.chmod(folder, 0o755)


def test_nothing_is_unpickled(folder, monkeypatch):
    import pickle
    for name in ("load", "loads", "Unpickler"): monkeypatch.setattr(pickle, name, lambda *a, **k: pytest.fail("unpickled"))
    assert load_checkpoint(folder)


def test_reader_beside_a_writer_sees_whole_states(tmp_path):
    code = f"""
        import sys; sys.path[:0] = {[os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]!r}
        import test_checkpoints as t
        for step in range(1, 60): t.save_checkpoint({str(tmp_path/"c")!r}, t.state(step))
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    steps = []
    while writer.poll() is None:
        if found := load_checkpoint(tmp_path/"c"):
            assert same(found.state, state(found.state["step"]))
            steps.append(found.state["step"])
    assert writer.returncode == 0 and steps == sorted(steps) and len(set(steps)) > 3


def test_python_and_numpy_generators_go_on(tmp_path):
    a, b = random.Random(1), np.random.default_rng(1)
    a.random(), b.random()
    save_checkpoint(tmp_path/"r", dict(a=a.getstate(), b=b.bit_generator.state, mt=np.random.RandomState(1).get_state()))
    found, c, d = load_checkpoint(tmp_path/"r").state, random.Random(), np.random.default_rng()
    c.setstate(found["a"])
    d.bit_generator.state = found["b"]
    np.random.RandomState().set_state(found["mt"])
    assert (a.random(), b.random()) == (c.random(), d.random())
