"Methods by name, resumed trainings, the reference that trainings share, tasks."
import math
import random
import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset

from tokenstudy import core, lm as lms, reasoning
from tokenstudy.cdpo import methods as M
from tokenstudy.cdpo.pairs import PreferenceDataError
from tokenstudy.cdpo.weights import reweighted
from tokenstudy.lm.finetuning import few_shot, lessons
from tokenstudy.cdpo.comparison import evaluate
from cdpo.toys import pairs, state, toy, trainer


@pytest.mark.parametrize("method", M.METHODS)
def test_preference_every_method_trains(method):
    base = toy()
    before, probe = state(base.model), pairs(2)
    done = M.train(method, base, pairs(), lr=1e-2, epochs=1, batch_size=4, probe=probe, probe_every=1)
    assert torch.equal(state(base.model), before) and not torch.equal(state(done.lm.model), before)
    assert [c["step"] for c in done.curves] == [0, 1, 2] and done.report["train"]["kept"] == 8
    again = M.train(method, base, pairs(), lr=1e-2, epochs=1, batch_size=4)
    assert torch.equal(state(done.lm.model), state(again.lm.model)), "a probe, or a second run, changed the training"


def test_preference_train_names_what_is_missing():
    with pytest.raises(ValueError, match="one of sft"): M.train("cdpo", toy(), pairs(), lr=1e-3)
    with pytest.raises(PreferenceDataError, match="needs the column rejected_weights"): M.train("critical_dpo", toy(), pairs(weights=False), lr=1e-3)
    with pytest.raises(M.DivergedError, match="lower lr"): M.train("sft", toy(), pairs(), lr=3e38, epochs=3)


def test_preference_weights_matter_where_they_stand():
    same, shuffled = (M.train("critical_dpo", toy(), reweighted(pairs(), kind), lr=1e-2) for kind in ("same", "shuffled"))
    assert not torch.allclose(state(same.lm.model), state(shuffled.lm.model), atol=1e-5)


def test_preference_train_helper_resumes(tmp_path):
    kw = dict(epochs=2, batch_size=4, save_strategy="steps", save_steps=2)
    straight = M.train("critical_dpo", toy(), pairs(), lr=1e-2, output_dir=tmp_path, **kw)
    steps = [p.name for p in tmp_path.glob("checkpoint-*")]
    resumed = M.train("critical_dpo", toy(), pairs(), lr=1e-2, output_dir=tmp_path, resume=True, **kw)
    assert sorted(steps) == ["checkpoint-2", "checkpoint-4"] and torch.equal(state(straight.lm.model), state(resumed.lm.model))


def test_preference_known_reference_is_used_and_checked(tmp_path):
    known = M.with_reference(toy(), pairs())
    a, b = trainer(tmp_path, known, precompute_ref_log_probs=True), trainer(tmp_path, precompute_ref_log_probs=True)
    batch = [next(iter(t.get_eval_dataloader(t.train_dataset))) for t in (a, b)]
    assert torch.allclose(batch[0]["ref_token_logps"], batch[1]["ref_token_logps"], atol=1e-6)
    with pytest.raises(PreferenceDataError, match="differ from this reference"): trainer(tmp_path, known, model=toy(5).model, precompute_ref_log_probs=True)


WORDS = [dict(id=f"q{i}", prompt=f"What is {i} plus {i}?", answer=str(2*i), solution=f"{i} plus {i} is {2*i}.\n#### {2*i}") for i in range(12)]


def test_comparison_of_preference_counter_example_starts_between():
    task = M.distractors(problems=2, asked=4, course=32, epochs=1)
    assert evaluate(task.base, task.asked(task.test), task.correct, num_samples=0, max_new_tokens=task.max_new_tokens).keys() == {"greedy"}
    assert [set(d.column_names) >= {"id", "prompt", "answer", "solution"} for d in (task.train, task.validation, task.test)] == [True]*3


def test_comparison_of_preference_few_shot_prompts():
    rows = few_shot(Dataset.from_list(WORDS[:2]), WORDS[5:7])
    assert rows[1]["prompt"] == ("Question: What is 5 plus 5?\nAnswer: 5 plus 5 is 10.\n#### 10\n\nQuestion: What is 6 plus 6?\nAnswer: 6 plus 6 is 12.\n#### 12\n\n"
                                 "Question: What is 1 plus 1?\nAnswer:")
    assert rows[0]["answer"] == "0" and rows[0]["id"] == "q0"


def test_comparison_of_preference_word_problems_on_smollm2():
    if lms.lm_status()[0]["state"] != "cached": pytest.skip("SmolLM2 is not converted here: tokenstudy models prepare")
    base, solved = lms.load_lm("smollm2", device="cpu", dtype="fp32"), Dataset.from_list(WORDS)
    task = M.word_problems(base, solved, solved, problems=3, validation=2, asked=2, shots=2, max_new_tokens=8)
    assert [len(task.train), len(task.validation), len(task.test)] == [3, 2, 2] and task.train[0]["prompt"].count("Question:") == 3
    assert task.train[0]["prompt"].endswith("What is 0 plus 0?\nAnswer:") and "What is 5 plus" in task.train[0]["prompt"]   # shown: those after validation
    end, = base.tokenizer.encode("\n\n", add_special_tokens=False)
    assert end in lms.eos_ids(task.base)
    ids = base.tokenizer(" 4\n#### 4")["input_ids"]
    assert task.correct(dict(answer="4"), ids) and not task.correct(dict(answer="5"), ids)
    (prompt, response), = lessons(base, [dict(id="x", prompt="Question: 1?\nAnswer:", solution="one")])
    assert response[-1] in lms.eos_ids(base) and base.tokenizer.decode(prompt + response[:-1]) == "Question: 1?\nAnswer: one"
    with pytest.raises(ValueError, match="are needed"): M.word_problems(base, solved, solved, problems=12, validation=2)


def test_comparison_of_preference_large_task_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("TOKENSTUDY_DATA", raising=False)
    with pytest.raises(core.MissingModelError, match="no gsm8k"): M.large_task("smollm2", {}, source=tmp_path)


def test_comparison_of_preference_distractors_are_foreign_and_answers_true():
    rows = reasoning.distractor_problems(12, split="test", seed=3)
    assert list(rows) == list(reasoning.distractor_problems(12, split="test", seed=3)) and list(rows)[:5] == list(reasoning.distractor_problems(5, split="test", seed=3))
    for row in rows:
        statements = row["prompt"].removesuffix(" . ?").split(" . ")
        own = [statements[0], *(s for s in statements[1:] if s.split()[0] not in reasoning.NAMES)]
        assert len(statements) - len(own) == 2
        problem = reasoning.read_problem(" . ".join([*own, "?"]))
        assert (problem.answer, reasoning.solution_of(problem)) == (row["answer"], row["solution"])
        foreign = {s.split()[0] for s in statements[1:]} & set(reasoning.NAMES)
        assert foreign and statements[0].split()[0] not in foreign
    train = {r["prompt"] for r in reasoning.distractor_problems(40, split="train")}
    assert not train & {r["prompt"] for r in reasoning.distractor_problems(40, split="test")}


# ---- which training is it?

SAVED = dict(epochs=2, batch_size=4, save_strategy="steps", save_steps=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A training with two checkpoints, and its folder."
    folder = tmp_path_factory.mktemp("finished")
    return M.train("critical_dpo", toy(), pairs(), lr=1e-2, output_dir=folder, probe=pairs(2), **SAVED), folder


def late():
    "A base that differs in the last number of its last parameter only."
    base = toy()
    with torch.no_grad(): list(base.model.parameters())[-1].view(-1)[-1] += 1e-3
    return base


@pytest.mark.parametrize("said, change", [
    ("method: ", dict(method="dpo")), ("model: ", dict(base=toy(1))), ("model: ", dict(base=late())), ("data: ", dict(pairs=pairs().select(range(7)))),
    ("data: ", dict(pairs=reweighted(pairs(), "constant"))), ("learning_rate: 0.01 there, 0.02 now", dict(lr=2e-2)), ("beta: 1.0 there, 0.5 now", dict(beta=.5)),
    ("seed: 0 there, 1 now", dict(seed=1)), ("num_train_epochs: 2 there, 3 now", dict(epochs=3)), ("per_device_train_batch_size", dict(batch_size=2)),
    ("probe: ", dict(probe=pairs(3))), ("weight_decay", dict(weight_decay=.1))], ids=lambda x: x if isinstance(x, str) else next(iter(x)))
def test_reported_preference_resume_refuses_another_training(finished, said, change):
    asked = dict(method="critical_dpo", base=toy(), pairs=pairs(), lr=1e-2, probe=pairs(2), output_dir=finished[1], resume=True, **SAVED) | change
    with pytest.raises(core.CheckpointError, match=said): M.train(asked.pop("method"), asked.pop("base"), asked.pop("pairs"), **asked)


def flip(path): path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
def cut(path): path.write_bytes(path.read_bytes()[:-10])
def lose(path): path.unlink()
def empty(path): path.write_text("{}")


@pytest.mark.parametrize("part, harm", [
    ("model.safetensors", flip), ("model.safetensors", cut), ("optimizer/tensors-*", flip), ("optimizer/tensors-*", lose),
    ("random-0/state-*", flip), ("trainer_state.json", cut), ("whole/manifest.json", empty)], ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_corrupt_preference_resume_names_what_is_damaged(finished, tmp_path, part, harm):
    folder = shutil.copytree(finished[1], tmp_path/"copy")
    path, = (folder/"checkpoint-4").glob(part)
    harm(path)
    def resume(): return M.train("critical_dpo", toy(), pairs(), lr=1e-2, output_dir=folder, probe=pairs(2), resume=True, **SAVED)
    with pytest.raises(core.CorruptFileError, match=path.name): resume()
    shutil.rmtree(folder/"checkpoint-4")             # the way out that the message names
    assert torch.equal(state(resume().lm.model), state(finished[0].lm.model))


def test_preference_checkpoints_hold_no_pickle(finished):
    files = [p for p in finished[1].rglob("*") if p.is_file()]
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".md", ".lock", ""} and any(p.parent.name == "optimizer" for p in files)
    for p in files: assert not p.read_bytes()[:2] == b"PK" and p.name not in ("optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state.pth")


def test_preference_pickles_of_others_are_not_read(tmp_path):
    (tmp_path/"checkpoint-2").mkdir()
    (tmp_path/"checkpoint-2/optimizer.pt").touch()
    with pytest.raises(core.CheckpointError, match="pickles are not read"): M.train("sft", toy(), pairs(), lr=1e-2, output_dir=tmp_path, resume=True, epochs=1)
    assert (tmp_path/"checkpoint-2/optimizer.pt").exists()


def test_preference_train_leaves_the_random_generators_alone():
    def numbers(): return random.random(), np.random.random(), torch.rand(1).item()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    first = numbers()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    M.train("sft", toy(), pairs(), lr=1e-2, epochs=1)
    assert numbers() == first
