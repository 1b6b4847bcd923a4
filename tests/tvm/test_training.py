"Training a verifier: batches, one gradient for outcomes and values, kills, other bases, damaged files, and mutants."
import copy
import dataclasses
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from conftest import ROOT
from tokenstudy import core, lm, reasoning
from tokenstudy.tvm.labels import ValueDataError, value_data
from tokenstudy.tvm.verifier import TokenValueModel, score_responses, value_loss, value_quality
from tokenstudy.tvm.training import COMPOSITIONS, batches, denominators, micro_batches, tensors, train_verifier
from tvm.toys import NAN, made, same, samples


@pytest.fixture(scope="module")
def toy(): return lm.tiny_lm("llama", vocab=8)


@pytest.fixture(scope="module")
def paths(): return samples()


def check_batch(make):
    "Weights are multiplicities, prompts and padding carry nothing, labels come from all samples."
    data = value_data([made("abz", 1), made("abz", 1), made("acdz", 0)], "tvm")
    batch = make(data, [0, 1], 0)
    x = torch.zeros(batch["labels"].shape, requires_grad=True)
    total, weight = value_loss(x, batch["labels"], batch["weights"])
    g = torch.autograd.grad(total, x)[0]
    assert weight == 2*3 + 4
    assert (g[:, :2] == 0).all() and (g[0, 5:] == 0).all()
    want = [[2*2*(.5 - y)/4 for y in (2/3, 1, 1)], [2*(.5 - y)/4 for y in (2/3, 0, 0, 0)]]
    assert torch.allclose(g[0, 2:5], torch.tensor(want[0])) and torch.allclose(g[1, 2:], torch.tensor(want[1]))


def test_values_prompt_and_padding_get_no_gradient(): check_batch(tensors)


@pytest.mark.parametrize("mutant", ["weights ignored", "prompt labelled", "padding labelled", "shifted by one"])
def test_values_batch_mutants_are_caught(mutant):
    def make(*args):
        batch = tensors(*args)
        if mutant == "weights ignored": batch["weights"] = batch["weights"].clamp(max=1)
        if mutant == "prompt labelled": batch["labels"][:, 1], batch["weights"][:, 1] = .9, 1
        if mutant == "padding labelled": batch["labels"][0, 5], batch["weights"][0, 5] = 0, 1
        if mutant == "shifted by one": batch["labels"], batch["weights"] = batch["labels"].roll(-1, 1), batch["weights"].roll(-1, 1)
        return batch
    with pytest.raises(AssertionError): check_batch(make)


def test_values_batches_hold_each_path_once(paths):
    data = value_data(paths, "tvm", unique=False)
    lengths = np.array([len(x) for x in data.ids])
    for composition in COMPOSITIONS:
        plan = batches(data, 10, composition, 0, 1)
        assert sorted(np.concatenate(plan)) == list(range(len(data)))
        whole = all(set(np.flatnonzero(np.isin(data.problem, data.problem[rows]))) == set(rows) for rows in plan)
        assert whole == (composition == "question")
        for rows in plan:
            parts = micro_batches(lengths, rows, 16)
            assert sorted(np.concatenate(parts)) == sorted(rows) and all(len(p) == 1 or len(p)*lengths[p].max() <= 16 for p in parts)


def gradient(model, data, loss, rows=None):
    rows = np.arange(len(data)) if rows is None else rows
    batch = tensors(data, rows)
    total = value_loss(model(input_ids=batch["input_ids"]).logits, batch["labels"], batch["weights"], kind=loss)[0]
    model.zero_grad()
    (total/denominators(data, rows)[0]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_values_and_outcomes_have_one_gradient(toy, paths, loss):
    model = TokenValueModel.from_causal_lm(toy)
    with torch.no_grad(): model.value_head.weight.mul_(20)            # not near .5
    want = gradient(model, value_data(paths, "ovm"), loss)
    def apart(data, rows=None): return float((gradient(model, data, loss, rows) - want).norm()/want.norm())
    assert apart(value_data(paths, "tvm")) < 5e-6 > apart(value_data(paths, "tvm", unique=False))
    once = list({(t.problem, *t.response_ids): t for t in paths}.values())
    assert apart(value_data(once, "tvm")) > 1e-3               # copies removed before counting
    shifted = value_data(paths, "tvm")
    shifted.labels = [np.concatenate([x[:1], x[:-1]]) for x in shifted.labels]
    assert apart(shifted) > 1e-3
    tvm, rows = value_data(paths, "tvm"), np.arange(0, len(value_data(paths, "tvm")), 2)
    half = gradient(model, value_data(paths, "ovm"), loss, rows)
    assert float((gradient(model, tvm, loss, rows) - half).norm()/half.norm()) > 1e-3


SETTINGS = dict(epochs=2, batch_size=12, lr=3e-3, seed=3)


CHILD = """
    import os, signal, sys
    sys.path[:0] = {path!r}
    import numpy as np
    from transformers import AutoModel
    import conftest
    from tvm.toys import samples
    from tvm.test_training import SETTINGS
    from tokenstudy import lm
    from tokenstudy.core import training as loop
    from tokenstudy.tvm.training import train_verifier
    from tokenstudy.tvm.verifier import score_responses
    model = AutoModel.from_pretrained({model!r}).train(False)
    np.save({told!r}, np.concatenate(score_responses(model, samples())))
    keep, done = loop.save_checkpoint, []
    def die(*args, **options):
        keep(*args, **options)
        done.append(1)
        if len(done) == 3: os.kill(os.getpid(), signal.SIGKILL)
    loop.save_checkpoint = die
    train_verifier(lm.tiny_lm("llama", vocab=8), samples(), "tvm", composition="shuffled", save_every=0, output_dir={out!r}, **SETTINGS)
"""


def state(model): return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_values_verifier_in_a_fresh_process_and_after_a_kill(toy, paths, tmp_path):
    straight = train_verifier(toy, paths, "tvm", composition="shuffled", output_dir=tmp_path/"straight", **SETTINGS)
    script = textwrap.dedent(CHILD.format(path=[str(ROOT/"tests"), str(ROOT)], model=str(tmp_path/"straight"/"model"),
                                          told=str(tmp_path/"told.npy"), out=str(tmp_path/"killed")))
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=500)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert np.array_equal(np.load(tmp_path/"told.npy"), np.concatenate(score_responses(straight.model, paths)))
    assert [p.name for p in (tmp_path/"killed").iterdir()] == ["checkpoint"]
    def resume(**changed):
        return train_verifier(toy, paths, "tvm", composition="shuffled", output_dir=tmp_path/"killed", resume=True, **SETTINGS | changed)
    with pytest.raises(core.CheckpointError, match="of another training"): resume(lr=1e-3)
    for file in sorted((tmp_path/"killed"/"checkpoint").glob("[!.]*")): check_damage(file, resume)
    resumed = resume()
    assert torch.equal(state(resumed.model), state(straight.model)) and resumed.tokens == straight.tokens
    assert [e["loss"] for e in resumed.log] == [e["loss"] for e in straight.log]
    assert sorted(p.name for p in (tmp_path/"killed").iterdir()) == ["model", "run"]
    again = resume()                                                  # it is done; loaded from the folder
    assert torch.equal(state(again.model), state(straight.model)) and again.log == resumed.log and again.settings == resumed.settings


def check_damage(file, resume):
    "A flipped bit, a cut, an emptied and a missing file are found and named; the file is whole again afterwards."
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole)//2] ^= 1
    for damaged in (bytes(flipped), whole[:len(whole)//2], b"", None):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        with pytest.raises(core.CorruptFileError, match=file.name.replace(".", "[.]")): resume()
    file.write_bytes(whole)


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    "A small training that is done, and how to ask for it again."
    folder, some = tmp_path_factory.mktemp("finished"), samples(6)
    def again(base=toy, given=some, kind="tvm", **changed):
        return train_verifier(base, given, kind, **dict(epochs=1, batch_size=9, output_dir=folder, resume=True) | changed)
    return folder, some, again(), again


def test_corrupt_values_damage_to_a_finished_verifier_is_named(finished):
    folder, _, first, again = finished
    files = [*sorted((folder/"model").iterdir()), *sorted((folder/"run").glob("[!.]*"))]
    assert {"config.json", "model.safetensors", "manifest.json"} <= {f.name for f in files}
    for file in files: check_damage(file, again)
    assert torch.equal(state(again().model), state(first.model))


def test_reported_values_resume_is_of_the_whole_base(toy, finished):
    "Every parameter of the base counts, to its last number; so does its head, if it is a verifier."
    _, _, first, again = finished
    for name, _ in toy.model.named_parameters():
        other = copy.deepcopy(toy.model)
        with torch.no_grad(): other.get_parameter(name).view(-1)[-1:].neg_()
        with pytest.raises(core.CheckpointError, match="base: "): again(lm.LM(other, toy.tokenizer, "other"))
    late = copy.deepcopy(toy.model)
    with torch.no_grad():
        for p in late.parameters(): p.view(-1)[p.numel()//2:].neg_()      # the first half is the same
    with pytest.raises(core.CheckpointError, match="base: "): again(late)
    assert torch.equal(state(again(copy.deepcopy(toy.model)).model), state(first.model))


def test_values_resume_is_of_the_whole_head(toy, tmp_path):
    base, some = TokenValueModel.from_causal_lm(toy), samples(6)
    options = dict(epochs=1, output_dir=tmp_path, resume=True)
    train_verifier(base, some, "tvm", **options)
    other = copy.deepcopy(base)
    with torch.no_grad(): other.value_head.bias += 1
    with pytest.raises(core.CheckpointError, match="base: "): train_verifier(other, some, "tvm", **options)


def test_values_resume_is_of_all_data_and_settings(finished):
    _, some, _, again = finished
    last = some[-1]
    for other in ([*some[:-1], dataclasses.replace(last, correct=not last.correct)], some[:-1], [dataclasses.replace(t, prompt_ids=[1, 5]) if t.problem == last.problem else t for t in some],
                  [*some[:-1], dataclasses.replace(last, problem="elsewhere")]):
        with pytest.raises(core.CheckpointError, match="data: "): again(given=other)
    for name, value in dict(epochs=2, lr=1e-4, batch_size=8, micro_tokens=64, loss="bce", lm_weight=.2, composition="shuffled", seed=1, kind="ovm", eval_data=some).items():
        with pytest.raises(core.CheckpointError, match=f"{name}: "): again(**{name: value})
    from peft import LoraConfig
    with pytest.raises(core.CheckpointError, match="peft: "): again(peft_config=LoraConfig(r=2, target_modules="all-linear"))


def test_values_resume_refuses_older_files(toy, tmp_path):
    (tmp_path/"checkpoint.safetensors").write_bytes(b"old")
    with pytest.raises(core.CheckpointError, match="checkpoint.safetensors was written by an older version"):
        train_verifier(toy, samples(6), "tvm", epochs=1, output_dir=tmp_path, resume=True)
    train_verifier(toy, samples(6), "tvm", epochs=1, output_dir=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "run"]


def test_reported_values_weights_that_are_not_finite_are_no_verifier(toy, monkeypatch):
    some = samples(6)
    for bad in (float("inf"), NAN, 0, -1):
        with pytest.raises(ValueError, match="lr = "): train_verifier(toy, some, "tvm", epochs=1, lr=bad)
    class Leaping(torch.optim.AdamW):
        def step(self, *args, **options):
            super().step(*args, **options)
            self.param_groups[0]["params"][0].data.view(-1)[-1] = float("inf")
    with monkeypatch.context() as m:
        m.setattr(torch.optim, "AdamW", Leaping)
        with pytest.raises(core.TrainingError, match="not finite after step 1"):                     # the only step: no later loss would tell
            train_verifier(toy, some, "tvm", epochs=1, batch_size=99)


def test_reported_a_disk_that_fills_up_at_the_end_is_said(toy, tmp_path, monkeypatch):
    from safetensors import SafetensorError
    def full(self, *args, **options): raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    some, options = samples(6), dict(epochs=1, output_dir=tmp_path, resume=True)
    with monkeypatch.context() as m:
        m.setattr(TokenValueModel, "save_pretrained", full)
        with pytest.raises(core.TokenStudyError, match=f"cannot write {tmp_path/'model'} .*No space left.*make room"): train_verifier(toy, some, "tvm", **options)
    assert not (tmp_path/"model").exists() and not list(tmp_path.glob(".*.partial"))
    assert train_verifier(toy, some, "tvm", **options).log and (tmp_path/"model").is_dir()


def test_values_training_with_whole_questions_is_one_for_both_labels(toy, paths):
    def told(kind, composition, **more):
        run = train_verifier(toy, paths, kind, composition=composition, **SETTINGS | more)
        return np.concatenate(score_responses(run.model, paths))
    same = np.abs(told("tvm", "question") - told("ovm", "question")).max()
    cut = told("tvm", "question", micro_tokens=16)
    assert same < 1e-4 and np.allclose(told("tvm", "question"), cut, atol=1e-5)
    assert np.abs(told("tvm", "shuffled") - told("ovm", "shuffled")).max() > 3e-4


def test_values_training_learns_and_judges(toy, paths):
    before = state(toy.model).clone()
    run = train_verifier(toy, paths, "prm_soft", block=2, epochs=6, lr=1e-2, batch_size=16, loss="bce", eval_data=samples(8, seed=5))
    assert run.log[-1]["loss"] < run.log[0]["loss"] and len(run.log) == 6 and run.counts["samples"] == len(paths)
    assert {"eval_ece", "eval_brier", "eval_auc", "eval_correlation"} <= run.log[0].keys() and run.log[-1]["eval_auc"] > .7
    assert torch.equal(before, state(toy.model)) and not run.model.training
    assert value_quality(run.model, paths)["auc"] > .7


def test_values_training_refuses_nonsense(toy, paths):
    for options, message in ((dict(composition="all"), "question, shuffled"), (dict(loss="l1"), "mse or bce"), (dict(epochs=0), "epochs = 0"),
                             (dict(resume=True), "give output_dir"), (dict(kind="vm"), "must be one of")):
        with pytest.raises(ValueError, match=message): train_verifier(toy, paths, **dict(kind="tvm") | options)
    long = [dataclasses.replace(paths[0], response_ids=[2]*127 + [7], logprobs=[0.]*128)]
    with pytest.raises(ValueDataError, match="context of 128"): train_verifier(toy, long, "tvm")
    broken = copy.deepcopy(toy.model)
    with torch.no_grad(): broken.model.embed_tokens.weight[2] = NAN
    with pytest.raises(core.TrainingError, match="loss of step 1 is nan"): train_verifier(broken, paths, "tvm", epochs=1)


def test_values_lora_is_merged(toy, paths):
    from peft import LoraConfig
    run = train_verifier(toy, paths, "tvm", peft_config=LoraConfig(r=2, target_modules="all-linear"), epochs=1, batch_size=24)
    assert isinstance(run.model, TokenValueModel) and not any("lora" in n for n, _ in run.model.named_parameters())
    assert not torch.equal(state(run.model.lm), state(toy.model)) and len(score_responses(run.model, paths[:2])) == 2


def test_values_data_know_their_labels(toy, paths):
    data = value_data(paths, "ovm")
    with pytest.raises(ValueDataError, match="these labels are ovm"): train_verifier(toy, data, "tvm")
    assert train_verifier(toy, data, epochs=1).kind == "ovm" and train_verifier(toy, paths, epochs=1).kind == "tvm"


def test_reported_both_denominators_count_copies():
    "Two labelled and five response tokens of which the sample of three stands for two: 2 + 1 labels (the last tokens), 2·3 + 2 tokens."
    def made(*response): return reasoning.Trajectory("p", [1, 2], list(response), [0.]*len(response), "7", True, True)
    some = [made(3, 4, 7), made(5, 7), made(3, 4, 7)]
    data, each = value_data(some, "orm"), value_data(some, "orm", unique=False)
    assert data.weights.tolist() == [2, 1]
    assert denominators(data, [0, 1]) == denominators(each, [0, 1, 2]) == (3, 8)
    assert denominators(data, [0]) == (2, 6) and denominators(data, [1]) == (1, 2)


def test_reported_rate_of_a_verifier_rises_from_its_first_step():
    "Forty steps: two of warm-up, the first of them with half the rate, then a straight line down to 1/38 of it."
    t = reasoning.Trajectory("p", [1], [2, 7], [0., 0.], "7", True, True)
    run = train_verifier(lm.tiny_lm("llama", vocab=8), [t], epochs=40, lr=1e-3)
    assert [entry["lr"] for entry in run.log] == pytest.approx([5e-4, 1e-3, *(1e-3*(40 - s)/38 for s in range(2, 40))])
    assert run.log[1]["loss"] != run.log[0]["loss"]            # the first step moves the model
