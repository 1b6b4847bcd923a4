"Trajectories survive, are recognised by the whole of what made them, and belong to their ids."
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from tokenstudy import core, reasoning as r


def made(problem="a", n=2, first=5):
    return [r.Trajectory(problem, [1, first], [7, 8 + i, 2], [-.5, -1/3, -.1*i], str(i), i == 0, True) for i in range(n)]


def test_trajectories_survive_files_and_datasets(tmp_path):
    file = r.TrajectoryFile(tmp_path/"t.sqlite", dict(seed=1))
    file.append(made("a"), made("b", 3))
    file.append(made("ü\n"))
    again = r.TrajectoryFile(tmp_path/"t.sqlite", dict(seed=1))
    assert list(again) == made("a") + made("b", 3) + made("ü\n") and len(again) == 3
    assert r.trajectories_of(again.dataset()) == list(again)
    assert again.dataset()[0]["logprobs"] == [-.5, -1/3, 0.]
    with pytest.raises(ValueError, match="one problem"): file.append(made("c") + made("d"))
    with pytest.raises(ValueError, match="one problem"): file.append([])
    with pytest.raises(KeyError): file["z"]
    with pytest.raises(ValueError, match="no column 'finished'"): r.trajectories_of(again.dataset().remove_columns("finished"))


def test_two_writers_share_a_file(tmp_path):
    files = [r.TrajectoryFile(tmp_path/"t.sqlite") for _ in range(2)]
    def work(i):
        for k in range(10): files[i].append(made(f"{i} {k}"))
    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(r.TrajectoryFile(tmp_path/"t.sqlite")) == 20 and len(files[0]) == 20
    with pytest.raises(ValueError, match="already"): files[0].append(made("1 3"))


def tiny(seed=0):
    from tokenstudy import lm
    return lm.LM(r.new_generator(16, 1, seed).eval(), r.arithmetic_tokenizer(), "tiny")

SAMPLING = dict(num_samples=2, max_new_tokens=5, group=2, seed=4)

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from tokenstudy import reasoning as r
import test_trajectories as t
append = r.TrajectoryFile.append
def killed(self, *groups):
    if len(self) >= 2: os.kill(os.getpid(), signal.SIGKILL)
    append(self, *groups)
r.TrajectoryFile.append = killed
r.sample_trajectories(t.tiny(), r.arithmetic(5, "chain"), path={path!r}, **t.SAMPLING)
"""


def test_sampling_resumes_after_a_kill(tmp_path):
    problems = r.arithmetic(5, "chain")
    whole = r.sample_trajectories(tiny(), problems, path=tmp_path/"whole.sqlite", **SAMPLING)
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(tmp_path/"killed.sqlite"))
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(r.TrajectoryFile(tmp_path/"killed.sqlite")) == 2
    resumed = r.sample_trajectories(tiny(), problems, path=tmp_path/"killed.sqlite", batch_size=3, **SAMPLING)
    assert len(resumed) == 5
    for a, b in zip(whole, resumed, strict=True):
        assert dataclasses.replace(a, logprobs=b.logprobs) == b and np.allclose(a.logprobs, b.logprobs, atol=1e-5)
    with pytest.raises(ValueError, match="num_samples is 2 in the file, 3 was asked for"): r.sample_trajectories(tiny(), problems, path=tmp_path/"whole.sqlite", **SAMPLING | dict(num_samples=3))
    other = r.sample_trajectories(tiny(), problems, **SAMPLING | dict(seed=5))
    assert [t.response_ids for t in other] != [t.response_ids for t in whole]


def test_logprobs_belong_to_the_ids():
    "Read back by one forward pass; a shift by one is noticed, and so is a lost end-of-sequence token."
    from tokenstudy import lm
    model = tiny()
    rows = r.sample_trajectories(model, r.arithmetic(3, "chain"), num_samples=6, max_new_tokens=30)
    read, _ = lm.token_logprobs(model, [t.prompt_ids + t.response_ids for t in rows])
    for t, row in zip(rows, read.numpy()):
        start = len(t.prompt_ids)
        assert np.allclose(row[start:start + len(t.response_ids)], t.logprobs, atol=1e-4)
        assert not np.allclose(row[start + 1:start + len(t.response_ids)], t.logprobs[:-1], atol=1e-4) or len(t.response_ids) < 3
        assert t.finished == (t.response_ids[-1] == 2) and t.response_ids.count(2) == t.finished
    assert any(t.finished for t in rows)
    with pytest.raises(ValueError, match="the id 'x'"):
        r.sample_trajectories(model, r.arithmetic(2, "chain").map(lambda row: dict(id="x")))


# what made a file

def grader_of_mine(texts, golds): return r.grade_arithmetic(texts, golds)


def changed(problems, column, row, value):
    rows = [dict(p) for p in problems]
    rows[row][column] = value
    from datasets import Dataset
    return Dataset.from_list(rows)


def last_weight_changed():
    import torch
    lm = tiny()
    with torch.no_grad(): list(lm.model.parameters())[-1].view(-1)[-1] += 1e-3
    return lm


PROBLEMS = r.arithmetic(4, "chain", split="tune")

CHANGES = dict(
    weights=(lambda: (tiny(seed=5), PROBLEMS, {}), "model is"),
    last_weight=(lambda: (last_weight_changed(), PROBLEMS, {}), "model is"),
    longer_problems=(lambda: (tiny(), r.arithmetic(4, "chain", (6, 7), split="tune"), {}), "problems is"),
    one_prompt=(lambda: (tiny(), changed(PROBLEMS, "prompt", 3, "1 + 1 ="), {}), "problems is"),
    one_answer=(lambda: (tiny(), changed(PROBLEMS, "answer", 0, "x"), {}), "problems is"),
    one_more=(lambda: (tiny(), r.arithmetic(5, "chain", split="tune"), {}), "problems is"),
    grader=(lambda: (tiny(), PROBLEMS, dict(grader=grader_of_mine)), "grader is"),
    temperature=(lambda: (tiny(), PROBLEMS, dict(temperature=.7)), "temperature is 1.0 in the file, 0.7"),
    top_k=(lambda: (tiny(), PROBLEMS, dict(top_k=3)), "top_k is"), top_p=(lambda: (tiny(), PROBLEMS, dict(top_p=.5)), "top_p is"),
    seed=(lambda: (tiny(), PROBLEMS, dict(seed=9)), "seed is"), group=(lambda: (tiny(), PROBLEMS, dict(group=3)), "group is"),
    tokens=(lambda: (tiny(), PROBLEMS, dict(max_new_tokens=6)), "max_new_tokens is"))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept")/"t.sqlite"
    r.sample_trajectories(tiny(), PROBLEMS, path=path, **SAMPLING)
    return path


@pytest.mark.parametrize("change", CHANGES)
def test_reported_a_file_of_something_else_is_refused(sampled, change):
    "The solutions of other problems or models are never returned: the error says what differs, and nothing is sampled or lost."
    make, message = CHANGES[change]
    lm, problems, options = make()
    with pytest.raises(ValueError, match=f"holds other trajectories: {message}.*restart=True"): r.sample_trajectories(lm, problems, path=sampled, **SAMPLING | options)
    assert len(list(r.sample_trajectories(tiny(), PROBLEMS, path=sampled, batch_size=1, **SAMPLING))) == 8


def test_a_file_of_other_code_is_refused(sampled, monkeypatch):
    monkeypatch.setattr(core, "code_fingerprint", lambda *things: "edited")
    with pytest.raises(ValueError, match="code is '.*' in the file, 'edited' was asked for"): r.sample_trajectories(tiny(), PROBLEMS, path=sampled, **SAMPLING)


def test_restart_sets_aside_and_samples_anew(tmp_path):
    path = tmp_path/"t.sqlite"
    first = list(r.sample_trajectories(tiny(), PROBLEMS, path=path, **SAMPLING))
    with pytest.warns(UserWarning, match="t.sqlite.old now"):
        other = r.sample_trajectories(tiny(seed=5), PROBLEMS, path=path, restart=True, **SAMPLING)
    assert [t.response_ids for t in other] != [t.response_ids for t in first]
    assert list(r.TrajectoryFile(tmp_path/"t.sqlite.old")) == first
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(r.sample_trajectories(tiny(seed=5), PROBLEMS, path=path, restart=True, **SAMPLING)) == list(other)
    path = tmp_path/"old.jsonl"
    path.write_text('{"trajectories": 1, "settings": {}}\n')
    with pytest.raises(core.TokenStudyError, match="JSON lines"): r.sample_trajectories(tiny(), PROBLEMS, path=path, **SAMPLING)
    with pytest.warns(UserWarning, match="old.jsonl.old"): assert len(r.sample_trajectories(tiny(), PROBLEMS, path=path, restart=True, **SAMPLING)) == 4


def test_reported_what_cannot_be_kept_is_said_before_any_work(tmp_path, monkeypatch):
    from tokenstudy import lm as lms
    monkeypatch.setattr(lms, "sample_stream", lambda *a, **k: pytest.fail("sampled in vain"))
    (tmp_path/"file").write_text("in the way")
    with pytest.raises(core.TokenStudyError, match="cannot write"): r.sample_trajectories(tiny(), PROBLEMS, path=tmp_path/"file"/"t.sqlite", **SAMPLING)
    numbered = PROBLEMS.remove_columns("id").add_column("id", list(range(4)))
    with pytest.raises(ValueError, match="problems has the id 0; ids must be non-empty texts"): r.sample_trajectories(tiny(), numbered, **SAMPLING)


# damage

def test_no_flipped_bit_is_believed(tmp_path):
    import random
    path = tmp_path/"t.sqlite"
    file = r.TrajectoryFile(path, dict(seed=1))
    file.append(*(made(name, 3) for name in "abcdef"))
    file.file.close()
    whole, told, draw = path.read_bytes(), list(file), random.Random(1)
    used, found = [i for i, b in enumerate(whole) if b], 0
    for i in draw.sample(used, 150):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << draw.randrange(8)]) + whole[i + 1:])
        try: assert list(r.TrajectoryFile(path, dict(seed=1))) == told
        except core.TokenStudyError: found += 1
    assert found > 60


def test_rows_that_are_no_trajectories_are_named(tmp_path):
    file = r.TrajectoryFile(tmp_path/"t.sqlite")
    file.append(made("a"), made("b"))
    text = file.file.get("b")
    for old, new, message in (("-0.5", "NaN", "must be a finite number"), ("[7,8,2]", "[7,8]", "log-probabilities for 2"), ("true", '"yes"', "true or false"), ('"samples"', '"sampled"', "samples")):
        file.file.put(dict(b=text.replace(old, new, 1)))
        with pytest.raises(core.CorruptFileError, match=f"problem 'b': .*{message}"): list(file)
        assert file["a"] == made("a")


def test_reported_a_writer_after_a_failed_write_is_whole(tmp_path, monkeypatch):
    "A write that failed half way (a full disk) leaves nothing behind that a later one would trip over."
    from tokenstudy.core import record_files
    file = r.TrajectoryFile(tmp_path/"t.sqlite", dict(seed=1))
    file.append(made("a"))
    opening = record_files._open
    def full(path, options):
        opened = opening(path, options)
        opened.execute(f"PRAGMA max_page_count = {opened.execute('PRAGMA page_count').fetchone()[0]}")
        return opened
    monkeypatch.setattr(record_files, "_open", full)
    file.file.close()
    with pytest.raises(core.TokenStudyError, match="full"): file.append(*(made(f"b{i}", 40) for i in range(20)))
    assert list(file) == made("a")
    monkeypatch.setattr(record_files, "_open", opening)
    file.file.close()
    file.append(made("c"))
    assert file.problems == ["a", "c"] and list(r.TrajectoryFile(tmp_path/"t.sqlite")) == made("a") + made("c")
