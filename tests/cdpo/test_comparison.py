"""The comparison of preference methods: pairs, tuning on validation problems and tests on others, intervals, tasks, weights; and what it does when interrupted."""
import math
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings, strategies as st

from tokenstudy import core, lm as lms, reasoning, lm as teaching
from tokenstudy import cdpo as C
from tokenstudy.cdpo.weights import PreferenceDataError
from test_preference import pairs, toy
from tokenstudy.cdpo import comparison


def sampled(problem, answer, correct, response, finished=True):
    return SimpleNamespace(problem=problem, answer=answer, correct=correct, finished=finished, prompt_ids=[1, 5], response_ids=response)


def test_comparison_of_preference_pairs_are_of_the_most_frequent_answers():
    some = [sampled("a", "7", True, [7, 2]), sampled("a", "3", False, [3, 2]), sampled("a", "4", False, [4, 2]), sampled("a", "4", False, [4, 4, 2]),
            sampled("b", "1", True, [6, 2]), sampled("c", "1", False, [6, 2]), sampled("c", None, False, [9, 2]), sampled("c", "2", True, [6, 2], False)]
    seen = set()
    for seed in range(8):
        made, counts = C.pairs_from_samples(some, seed)
        assert made["problem"][:] == ["a"] and made["chosen_ids"][0] == [7, 2]
        assert counts == dict(problems=3, pairs=1, no_right=1, no_wrong=1, without_answer=1, unfinished=1)
        seen.add(tuple(made["rejected_ids"][0]))
        assert list(C.pairs_from_samples(some[:4], seed)[0]["rejected_ids"]) == list(made["rejected_ids"])
    assert seen == {(4, 2), (4, 4, 2)}
    with pytest.raises(PreferenceDataError, match="no problem has both"): C.pairs_from_samples(some[4:])


def test_comparison_of_preference_comparison_tunes_on_validation_and_resumes(tmp_path, monkeypatch):
    base, data = toy(), pairs()
    problems = [[dict(prompt_ids=[1, 4 + i], answer=i % 2) for i in range(k, k + 4)] for k in (0, 5)]
    attempts, asked = [], []
    def attempt(entry, base, pairs, problems, grader, lr, beta, seed, samples, max_new_tokens, **training):
        attempts.append((entry["method"], lr, beta, seed)), asked.append(problems)
        if len(attempts) == 9: raise KeyboardInterrupt
        return dict(diverged=False, greedy=[lr*beta]*4, sampled=[lr*beta]*4, curves=[], seconds=0.)
    monkeypatch.setattr(C, "_attempt", attempt)
    def go(): return C.compare(base, data, *problems, None, core.Runs("cdpo/t", tmp_path), [.1, .2], [1., 2.], (0, 1),
                               {k: C.ENTRIES[k] for k in ("SFT", "critical")}, epochs=1)
    with pytest.raises(KeyboardInterrupt): go()
    results = go()
    assert len(attempts) == 2 + 2 + 4 + 2 + 1 and asked.count(problems[0]) == 2 + 4 and len(set(attempts)) < len(attempts)
    assert [(r["name"], r["lr"], r["beta"], r["edge"]) for r in results] == [("SFT", .2, 1., ["lr"]), ("critical", .2, 2., ["lr", "beta"])]
    assert np.shape(results[0]["greedy"]) == (2, 4) and go() == results
    assert [row["method"] for row in C.summary(results, "SFT")] == ["SFT", "critical"] and "minus SFT" in C.summary(results, "SFT")[1]
    assert C.fingerprint(base.model, data) == C.fingerprint(toy().model, pairs()) != C.fingerprint(toy(1).model, pairs())
    assert C.fingerprint(pairs()) != C.fingerprint(pairs(seed=1))


def test_comparison_of_preference_a_diverged_setting_is_a_result(tmp_path):
    got = comparison._attempt(C.ENTRIES["SFT"], toy(), pairs(), [dict(prompt_ids=[1])], lambda p, r: True, math.inf, 1., 0, 0, 4, epochs=1)
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
    found = C.evaluate(base, problems, lambda p, ids: ids[0] % 2 == p["answer"], samples=3, max_new_tokens=5)
    assert found["greedy"] == by_hand and all(s*3 == pytest.approx(round(s*3)) for s in found["sampled"])
    assert found == C.evaluate(base, problems, lambda p, ids: ids[0] % 2 == p["answer"], samples=3, max_new_tokens=5, batch_size=4)


# ---- results, tasks, weights

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
    def attempt(entry, base, pairs, problems, grader, lr, beta, seed, samples, max_new_tokens, **training):
        attempts.append(len(problems))
        return dict(diverged=False, greedy=[1.], sampled=[1.], curves=[], seconds=0.)
    monkeypatch.setattr(C, "_attempt", attempt)
    found = C.compare(toy(), pairs(), [dict(prompt_ids=[1])], [dict(prompt_ids=[1])]*3, None, core.Runs("cdpo/t", tmp_path), [.1], [1.], (0, 1), {"DPO": C.ENTRIES["DPO"]})
    assert attempts == [3, 3] and found[0]["validation"] is None and found[0]["edge"] == []


def test_comparison_of_preference_distractors_are_foreign_and_answers_true():
    rows = C.distractor_problems(12, split="test", seed=3)
    assert list(rows) == list(C.distractor_problems(12, split="test", seed=3)) and list(rows)[:5] == list(C.distractor_problems(5, split="test", seed=3))
    for row in rows:
        statements = row["prompt"].removesuffix(" . ?").split(" . ")
        own = [statements[0], *(s for s in statements[1:] if s.split()[0] not in reasoning.NAMES)]
        assert len(statements) - len(own) == 2
        problem = reasoning.read_problem(" . ".join([*own, "?"]))
        assert (problem.answer, reasoning.solution_of(problem)) == (row["answer"], row["solution"])
        foreign = {s.split()[0] for s in statements[1:]} & set(reasoning.NAMES)
        assert foreign and statements[0].split()[0] not in foreign
    train = {r["prompt"] for r in C.distractor_problems(40, split="train")}
    assert not train & {r["prompt"] for r in C.distractor_problems(40, split="test")}


def test_comparison_of_preference_first_difference_is_the_true_mistake():
    problems = reasoning.arithmetic(20, seed=1)
    for row in reasoning.faulty_solutions(problems, 3, seed=1):
        right = next(p["solution"] for p in problems if p["id"] == row["problem"])
        assert C.first_difference(reasoning.words(row["response"]), reasoning.words(right)) == row["mistake"]


def test_comparison_of_preference_weights_of_a_study(tmp_path):
    "All kinds of weights lie in [0, 1], one for each token; on a story they stand on the mistake more than elsewhere."
    task = C.stories(problems=8, asked=3)
    data = C.study_data(task, core.Runs("cdpo/t", tmp_path), samples=6, ce_betas=(1., 0.), rollouts=4, contrast=dict(epochs=1))
    for row in data.pairs:
        for name in ("rejected_weights", "weights_ce_0", "weights_ce_1", "weights_rollouts"):
            assert len(row[name]) == len(row["rejected_ids"]) and all(0 <= w <= 1 for w in row[name])
        assert row["rejected_weights"] == row["weights_ce_1"]
        words = task.base.tokenizer.convert_ids_to_tokens(row["rejected_ids"])
        assert row["first_mistake"] == reasoning.first_mistake(next(p["prompt"] for p in task.train if p["id"] == row["problem"]), words)
    assert set(data.mass) == {"rejected_weights", "weights_ce_0", "weights_ce_1", "weights_rollouts"}
    assert all(share > .2 for share in C.aim(data.pairs).values()), C.aim(data.pairs)
    again = C.study_data(task, core.Runs("cdpo/t", tmp_path), samples=6, ce_betas=(1., 0.), rollouts=4, contrast=dict(epochs=1))
    assert again.counts == data.counts and list(again.pairs) == list(data.pairs)


def test_comparison_of_preference_counter_example_starts_between():
    task = C.distractors(problems=2, asked=4, course=32, epochs=1)
    assert C.evaluate(task.base, task.asked(task.test), task.right, 0, task.max_new_tokens).keys() == {"greedy"}
    assert [set(d.column_names) >= {"id", "prompt", "answer", "solution"} for d in (task.train, task.validation, task.test)] == [True]*3


WORDS = [dict(id=f"q{i}", prompt=f"What is {i} plus {i}?", answer=str(2*i), solution=f"{i} plus {i} is {2*i}.\n#### {2*i}") for i in range(12)]


def test_comparison_of_preference_few_shot_prompts():
    rows = teaching.few_shot(Dataset.from_list(WORDS[:2]), WORDS[5:7])
    assert rows[1]["prompt"] == ("Question: What is 5 plus 5?\nAnswer: 5 plus 5 is 10.\n#### 10\n\nQuestion: What is 6 plus 6?\nAnswer: 6 plus 6 is 12.\n#### 12\n\n"
                                 "Question: What is 1 plus 1?\nAnswer:")
    assert rows[0]["answer"] == "0" and rows[0]["id"] == "q0"


def test_comparison_of_preference_word_problems_on_smollm2():
    if lms.lm_status()[0]["state"] != "cached": pytest.skip("SmolLM2 is not converted here: tokenstudy models prepare")
    base, solved = lms.load_lm("smollm2", device="cpu", dtype="fp32"), Dataset.from_list(WORDS)
    task = C.word_problems(base, solved, solved, problems=3, validation=2, asked=2, shots=2, max_new_tokens=8)
    assert [len(task.train), len(task.validation), len(task.test)] == [3, 2, 2] and task.train[0]["prompt"].count("Question:") == 3
    assert task.train[0]["prompt"].endswith("What is 0 plus 0?\nAnswer:") and "What is 5 plus" in task.train[0]["prompt"]   # shown: those after validation
    end, = base.tokenizer.encode("\n\n", add_special_tokens=False)
    assert end in lms.eos_ids(task.base)
    ids = base.tokenizer(" 4\n#### 4")["input_ids"]
    assert task.right(dict(answer="4"), ids) and not task.right(dict(answer="5"), ids)
    (prompt, response), = teaching.lessons(base, [dict(id="x", prompt="Question: 1?\nAnswer:", solution="one")])
    assert response[-1] in lms.eos_ids(base) and base.tokenizer.decode(prompt + response[:-1]) == "Question: 1?\nAnswer: one"
    with pytest.raises(ValueError, match="are needed"): C.word_problems(base, solved, solved, problems=12, validation=2)


def test_comparison_of_preference_large_task_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(core.MissingModelError, match="needs about 100000 GB"): C.large_task("meta-llama/Meta-Llama-3-8B", {}, 100_000)
    monkeypatch.delenv("TOKENSTUDY_DATA", raising=False)
    with pytest.raises(core.MissingModelError, match="no gsm8k"): C.large_task("smollm2", {}, source=tmp_path)


KILLED = """
import os, signal, sys
import torch; torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from tokenstudy import core
from tokenstudy.cdpo import comparison as C
from test_comparison import kill_study
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
    return C.compare(toy(), pairs(), problems, problems, lambda p, ids: ids[0] % 2 == p["answer"], core.Runs("cdpo/t", root), [1e-2, 2e-2], [1.], (0, 1),
                     {"DPO": C.ENTRIES["DPO"]}, samples=1, max_new_tokens=3, epochs=1, batch_size=4)


def test_comparison_of_preference_killed_study_goes_on_to_the_same_end(tmp_path):
    code = KILLED.format(tests=os.path.dirname(os.path.abspath(__file__)), root=str(tmp_path/"a"))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ran.returncode == -signal.SIGKILL, ran.stderr[-2000:]
    kept = core.Runs("cdpo/t", tmp_path/"a").records()
    assert len(kept) == 2
    assert kill_study(tmp_path/"a") == kill_study(tmp_path/"b")
    assert [r["key"] for r in core.Runs("cdpo/t", tmp_path/"a").records()][:2] == [r["key"] for r in kept]


# ---- the bench

def test_cdpo_bench_contestants_step():
    "Neither side of the bench row fails."
    from tokenstudy.cdpo import bench
    for step in bench.step_contest(count=2, hidden=16, layers=1): step()


def test_cdpo_bench_rows_at_a_small_size():
    from tokenstudy.cdpo import bench
    rows = {r["name"]: r for r in bench.rows(trajectories=2, n=2, full=8, runs=1, steps=1)}
    assert list(rows) == ["rollouts_vs_generate", "sequential_identification", "sequential_agreement", "step_vs_trl"]
    assert rows["sequential_identification"]["ours"] < rows["sequential_identification"]["peer"] and 0 <= rows["sequential_agreement"]["ours"] <= 1
