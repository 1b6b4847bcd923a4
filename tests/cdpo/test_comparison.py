"The comparison of preference methods: tuning on validation problems and tests on others, intervals, weights; and what it does when interrupted."
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings, strategies as st

from tokenstudy import core, lm as lms, reasoning
from tokenstudy.cdpo import comparison as C, methods
from tokenstudy.cdpo.methods import stories
from cdpo.toys import pairs, toy


def test_comparison_of_preference_comparison_tunes_on_validation_and_resumes(tmp_path, monkeypatch):
    base, data = toy(), pairs()
    problems = [[dict(prompt_ids=[1, 4 + i], answer=i % 2) for i in range(k, k + 4)] for k in (0, 5)]
    attempts, asked = [], []
    def attempt(entry, base, pairs, problems, grader, lr, beta, seed, num_samples, max_new_tokens, **training):
        attempts.append((entry["method"], lr, beta, seed)), asked.append(problems)
        if len(attempts) == 9: raise KeyboardInterrupt
        return dict(diverged=False, greedy=[lr*beta]*4, sampled=[lr*beta]*4, curves=[], seconds=0.)
    monkeypatch.setattr(C, "_attempt", attempt)
    def go(): return C.compare(base, data, problems[0], test=problems[1], grader=None, runs=core.Runs("cdpo/t", tmp_path), lrs=[.1, .2], betas=[1., 2.], seeds=(0, 1),
                               entries={k: C.ENTRIES[k] for k in ("SFT", "critical")}, epochs=1)
    with pytest.raises(KeyboardInterrupt): go()
    results = go()
    assert len(attempts) == 2 + 2 + 4 + 2 + 1 and asked.count(problems[0]) == 2 + 4 and len(set(attempts)) < len(attempts)
    assert [(r["name"], r["lr"], r["beta"], r["edge"]) for r in results] == [("SFT", .2, 1., ["lr"]), ("critical", .2, 2., ["lr", "beta"])]
    assert np.shape(results[0]["greedy"]) == (2, 4) and go() == results
    assert [row["method"] for row in C.summary(results, "SFT")] == ["SFT", "critical"] and "minus SFT" in C.summary(results, "SFT")[1]
    assert C._data_key(base.model, data) == C._data_key(toy().model, pairs()) != C._data_key(toy(1).model, pairs())
    assert C._data_key(base.model, pairs()) != C._data_key(base.model, pairs(seed=1))


def test_comparison_of_preference_a_diverged_setting_is_a_result(tmp_path):
    got = C._attempt(C.ENTRIES["SFT"], toy(), pairs(), [dict(prompt_ids=[1])], lambda p, r: True, 3e38, 1., 0, 0, 4, epochs=3)
    assert got["diverged"] and got["greedy"] == [0.]


@given(st.integers(1, 4), st.integers(2, 30), st.integers(0, 99))
@settings(max_examples=20)
def test_comparison_of_preference_intervals_hold_the_mean(seeds, problems, seed):
    a, b = np.random.default_rng(seed).integers(0, 2, (2, seeds, problems))
    mean, low, high = core.two_way_interval(a, b, resamples=200)
    assert low - 1e-9 <= mean <= high + 1e-9 or high - low < .3
    assert mean == pytest.approx(a.mean() - b.mean()) and core.two_way_interval(a, a[::-1], resamples=50)[0] == pytest.approx(0)
    with pytest.raises(ValueError, match="same questions"): core.two_way_interval(a, b[:, 1:])


def test_comparison_of_preference_evaluate_counts_right_answers():
    base, problems = toy(), [dict(prompt_ids=[1, 4 + i], answer=i % 2) for i in range(6)]
    answers = lms.sample(base, [p["prompt_ids"] for p in problems], max_new_tokens=5, temperature=0)
    by_hand = [float(a.response_ids[0] % 2 == p["answer"]) for a, p in zip(answers, problems)]
    found = C.evaluate(base, problems, lambda p, ids: ids[0] % 2 == p["answer"], num_samples=3, max_new_tokens=5)
    assert found["greedy"] == by_hand and all(s*3 == pytest.approx(round(s*3)) for s in found["sampled"])
    assert found == C.evaluate(base, problems, lambda p, ids: ids[0] % 2 == p["answer"], num_samples=3, max_new_tokens=5, batch_size=4)


def test_comparison_a_task_grades_all_answers_in_one_call():
    calls = []
    def grade(texts, golds):
        calls.append(len(texts))
        return [str(len(t)) == g for t, g in zip(texts, golds)]
    base = toy()
    task = methods.Task(base, *[Dataset.from_list([dict(prompt="7 - 9", answer=str(n)) for n in (3, 7)])]*3, grade=grade, max_new_tokens=5)
    some = task.asked(task.test)
    found = C.evaluate(base, some, task, num_samples=3, max_new_tokens=5)
    assert len(calls) == 2 and found == C.evaluate(base, some, task.correct, num_samples=3, max_new_tokens=5) and len(calls) == 2 + 2*4
    assert task.graded([], []) == []



def record(method, step, lr, beta, seed, value, data="d", **more):
    entry = C.ENTRIES[method]
    return dict(config=dict(data=data, entry=entry, step=step, lr=lr, beta=beta, seed=seed), result=dict(greedy=[1 - value]*2, sampled=[value]*2, curves=[], **more))


def test_comparison_of_preference_results_come_from_records_alone():
    some = [record("DPO", "tune", lr, 1., 0, v) for lr, v in ((.1, .2), (.2, .6), (.4, .6))] + \
           [record("DPO", "test", .2, 1., s, .5 + s/10) for s in (1, 0)] + [record("DPO", "test", .4, 1., 0, 0.), record("RPO", "test", .1, 1., 0, .3, data="another")]
    found, = C.results_of(some)
    assert (found["name"], found["lr"], found["validation"], found["edge"]) == ("DPO", .2, .6, [])      # of equally good ones the gentlest
    assert found["sampled"] == [[.5]*2, [.6]*2] and len(found["grid"]) == 3                             # by seed; not those of another setting
    assert C.results_of(some, measure="greedy") == [] or C.results_of(some, measure="greedy")[0]["lr"] == .1
    assert C.results_of([]) == [] and [r["name"] for r in C.results_of(some[5:])] == ["DPO"]
    rows = C.summary([found], "DPO")
    assert rows[0]["sampled %"].startswith("55.0") and rows[0]["minus DPO"] == ""


def test_comparison_of_preference_one_setting_is_not_tuned(tmp_path, monkeypatch):
    attempts = []
    def attempt(entry, base, pairs, problems, grader, lr, beta, seed, num_samples, max_new_tokens, **training):
        attempts.append(len(problems))
        return dict(diverged=False, greedy=[1.], sampled=[1.], curves=[], seconds=0.)
    monkeypatch.setattr(C, "_attempt", attempt)
    found = C.compare(toy(), pairs(), [dict(prompt_ids=[1])], test=[dict(prompt_ids=[1])]*3, grader=None, runs=core.Runs("cdpo/t", tmp_path),
                      lrs=[.1], betas=[1.], seeds=(0, 1), entries={"DPO": C.ENTRIES["DPO"]})
    assert attempts == [3, 3] and found[0]["validation"] is None and found[0]["edge"] == []


def test_comparison_of_preference_weights_of_a_study(tmp_path):
    "All kinds of weights lie in [0, 1], one for each token; on a story they stand on the mistake more than elsewhere."
    task = stories(problems=8, asked=3)
    data = C.study_data(task, core.Runs("cdpo/t", tmp_path), num_samples=6, ce_betas=(1., 0.), rollouts=4, contrast=dict(epochs=1))
    for row in data.pairs:
        for name in ("rejected_weights", "weights_ce_0", "weights_ce_1", "weights_rollouts"):
            assert len(row[name]) == len(row["rejected_ids"]) and all(0 <= w <= 1 for w in row[name])
        assert row["rejected_weights"] == row["weights_ce_1"]
        words = task.base.tokenizer.convert_ids_to_tokens(row["rejected_ids"])
        assert row["first_mistake"] == reasoning.first_mistake(next(p["prompt"] for p in task.train if p["id"] == row["problem"]), words)
    assert set(data.mass) == {"rejected_weights", "weights_ce_0", "weights_ce_1", "weights_rollouts"}
    assert all(share > .2 for share in C.aim(data.pairs).values()), C.aim(data.pairs)
    again = C.study_data(task, core.Runs("cdpo/t", tmp_path), num_samples=6, ce_betas=(1., 0.), rollouts=4, contrast=dict(epochs=1))
    assert again.counts == data.counts and list(again.pairs) == list(data.pairs)


KILLED = """
import os, signal, sys
import torch; torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from tokenstudy import core
from tokenstudy.cdpo import comparison as C, methods
from cdpo.test_comparison import kill_study
made = []
def attempt(*a, **k):
    made.append(1)
    if len(made) == 3: os.kill(os.getpid(), signal.SIGKILL)
    return real(*a, **k)
real, C._attempt = C._attempt, attempt
kill_study({root!r})
"""


def kill_study(root):
    problems = [dict(prompt_ids=[1, 4 + i], answer=i % 2) for i in range(4)]
    return C.compare(toy(), pairs(), problems, test=problems, grader=lambda p, ids: ids[0] % 2 == p["answer"], runs=core.Runs("cdpo/t", root),
                     lrs=[1e-2, 2e-2], betas=[1.], seeds=(0, 1), entries={"DPO": C.ENTRIES["DPO"]}, num_samples=1, max_new_tokens=3, epochs=1, batch_size=4)


def test_comparison_of_preference_killed_study_goes_on_to_the_same_end(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).resolve().parents[1]), root=str(tmp_path/"a"))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ran.returncode == -signal.SIGKILL, ran.stderr[-2000:]
    kept = core.Runs("cdpo/t", tmp_path/"a").records()
    assert len(kept) == 2
    assert kill_study(tmp_path/"a") == kill_study(tmp_path/"b")
    assert [r["key"] for r in core.Runs("cdpo/t", tmp_path/"a").records()][:2] == [r["key"] for r in kept]
