"""Value labels and verifiers (tvm): the trie by hand and against slow readings of the definitions, the theorem on gradients, what padding, caches and prompts must not change,
saved and resumed verifiers, doubtful data; and each check fails when a fault is put in."""
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from tokenstudy import core, lm as lms, reasoning
from tokenstudy.tvm import values as V

EOS = 31
PATHS = [("abcd", 1), ("abce", 0), ("abf", 1), ("ag", 0), ("abcd", 1), ("h", 0)] # papers: the example that is worked by hand


def path(text, correct, problem="p", finished=True, answer="7"):
    ids = [ord(c) for c in text] if isinstance(text, str) else list(text)
    return reasoning.Trajectory(problem, [1, 2], ids, [0.]*len(ids), answer, bool(correct) and finished, finished)


def example(): return [path(*p) for p in PATHS]


def slowly(paths, kind, ends_of=lambda ids: []):
    "Labels as the definitions say, one prefix at a time."
    out = []
    for ids, _ in paths:
        row = []
        same = [r for other, r in paths if other == ids]
        outcome = sum(same)/len(same)
        for k in range(1, len(ids) + 1):
            through = [r for other, r in paths if other[:k] == ids[:k]]
            value, last = sum(through)/len(through), k == len(ids)
            ends = last or k in ends_of(ids)
            row.append({"tvm": value, "ovm": outcome, "orm": outcome if last else math.nan, "prm_soft": value if ends else math.nan,
                        "prm_hard": float(value > 0) if ends else math.nan}[kind])
        out.append(row)
    return out


def trie(paths): return reasoning.Trie([ids for ids, _ in paths], [r for _, r in paths])


def flat(rows): return np.array([x for row in rows for x in row], np.float32)


# ---- labels

def test_values_of_the_worked_example():
    found = dict(zip([t for t, _ in PATHS], V.label_paths(example(), "tvm")))
    assert found["abcd"] == pytest.approx([3/5, 3/4, 2/3, 1]) and found["abce"] == pytest.approx([3/5, 3/4, 2/3, 0])
    assert found["abf"] == pytest.approx([3/5, 3/4, 1]) and found["ag"] == pytest.approx([3/5, 0]) and found["h"] == pytest.approx([0])
    assert reasoning.trie_of(example()).value[0] == 3/6
    squares = {k: sum(float(((.5 - x)**2).sum()) for x in V.label_paths(example(), k)) for k in ("tvm", "ovm")}
    assert squares["tvm"] == pytest.approx(1.88333, abs=1e-5) and squares["ovm"] == pytest.approx(4.5) and squares["ovm"] - squares["tvm"] == pytest.approx(2.61667, abs=1e-5)


paths_st = st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 1)), min_size=1, max_size=12)


@given(paths_st, st.sampled_from(V.LABELS), st.sampled_from(["token", 2, 3]))
@settings(max_examples=150)
def test_values_labels_are_their_definitions(paths, kind, steps):
    ends_of = (lambda ids: [k for k in range(1, len(ids) + 1) if ids[k - 1] == 1]) if steps == "token" else (lambda ids: range(steps, len(ids) + 1, steps))
    found = V.labels_flat(trie(paths), kind, {1} if steps == "token" else steps)
    np.testing.assert_allclose(found, flat(slowly(paths, kind, ends_of)), atol=1e-6)


@given(paths_st)
@settings(max_examples=60)
def test_values_identities(paths):
    "Root = accuracy; a node = the mean of its children and endings; one path a problem: value = outcome; the order of paths changes nothing."
    t = trie(paths)
    assert t.value[0] == pytest.approx(np.mean([r for _, r in paths]))
    ending, right = np.bincount(t.leaf, minlength=len(t)), np.bincount(t.leaf, t.labels, len(t))
    for node in range(len(t)):
        below = t.children(node)
        assert t.value[node]*t.count[node] == pytest.approx((t.value[below]*t.count[below]).sum() + right[node])
        assert t.count[node] == t.count[below].sum() + ending[node]
    for p in paths: np.testing.assert_array_equal(V.labels_flat(trie([p]), "tvm"), V.labels_flat(trie([p]), "ovm"))
    turned = V.labels_flat(trie(paths[::-1]), "tvm")
    forward = np.split(V.labels_flat(t, "tvm"), t.starts[1:-1])
    np.testing.assert_allclose(turned, np.concatenate(forward[::-1]), atol=1e-7)


def shifted(trie, kind, steps=None): return np.roll(V.labels_flat(trie, kind, steps), 1)
def without_copies(trie, kind, steps=None):
    first, _ = trie.unique()
    small = reasoning.Trie([trie.tokens(trie.leaf[i]) for i in first], [trie.labels[i] for i in first])
    return np.concatenate([small.value[[small.find(trie.tokens(n)) for n in trie.nodes(i)]] for i in range(len(trie.leaf))])
def without_last(trie, kind, steps=None):
    out = V.labels_flat(trie, kind, steps).copy()
    out[trie.starts[1:] - 1] = np.nan
    return out
def outcomes(trie, kind, steps=None): return V.labels_flat(trie, "ovm")


@pytest.mark.parametrize("fault", (shifted, without_copies, without_last, outcomes), ids=lambda f: f.__name__)
def test_values_faults_of_labels_are_caught(fault):
    paths = [([ord(c) for c in t], r) for t, r in PATHS]
    with pytest.raises(AssertionError): np.testing.assert_allclose(fault(trie(paths), "tvm"), flat(slowly(paths, "tvm")), atol=1e-6)


def test_values_estimate_converges_on_a_known_chain():
    "A walk with three states of known success: the error of V̂ falls as 1/√n."
    def truth(k): return .3 + .2*(k % 3)
    rng, errors = np.random.default_rng(0), []
    for n in (100, 10_000):
        starts = rng.integers(0, 3, n)
        paths = [([int(s)], int(rng.random() < truth(s))) for s in starts]
        t = trie(paths)
        errors.append(max(abs(t.value[t.find([s])] - truth(s)) for s in range(3)))
    assert errors[1] < .03 and errors[1] < errors[0]


def test_values_doubtful_paths_are_counted_and_said():
    some = [path("abz", 1), path("ab", 0, finished=False), path("", 0, answer=None), path("abz", 0), path("azb", 1)]
    ends = {ord("z")}
    with pytest.warns(UserWarning, match="other label"): labels = V.label_paths(some, "tvm", ends=ends)
    assert labels[0][-1] == labels[3][-1] == .5 and len(labels[2]) == 0 and math.isnan(labels[4][-1])
    _, counts = V.problem_trie(some, ends)
    assert (counts["paths"], counts["truncated"], counts["empty"], counts["no_answer"], counts["behind_eos"], counts["mixed"]) == (5, 1, 1, 1, 1, 2)
    with pytest.raises(V.ValueDataError, match="one problem"): V.problem_trie([path("a", 1), path("a", 1, "q")])
    with pytest.raises(ValueError, match="tvm"): V.label_paths(example(), "value")
    with pytest.raises(ValueError): V.label_paths(example(), "prm_soft")


def test_values_eos_keeps_a_short_path_apart():
    "A path that is the beginning of another ends in a value of its own."
    labels = V.label_paths([path("abz", 1), path("abcz", 0)], "tvm", ends={ord("z")})
    assert labels[0][-1] == 1 and labels[1][-1] == 0 and labels[0][1] == labels[1][1] == .5


def test_values_rollout_labels():
    lm = lms.tiny_lm("llama", vocab=8)
    some = [reasoning.Trajectory(f"t{i}", s.prompt_ids, s.response_ids, [0.]*len(s.response_ids), None, s.finished and 3 not in s.response_ids, s.finished)
            for i, s in enumerate(lms.sample(lm, [[1, 2]]*4, max_new_tokens=6, seed=1, temperature=1.5))]
    soft, hard = (V.prm_rollouts(lm, some, lambda ids: 3 not in ids, 2, n=8, hard=h, max_total=6, temperature=1.5) for h in (False, True))
    for t, a, b in zip(some, soft, hard):
        assert a[-1] == b[-1] == float(t.correct) and all((x > 0) == y for x, y in zip(a, b) if x == x)
        assert [k for k, x in enumerate(a) if x == x] == sorted({*range(1, len(a), 2), len(a) - 1})


def test_values_posterior():
    mean, low, high, weight = V.beta_posterior([0, 1, 2], [0, 2, 2])
    assert mean == pytest.approx([.5, .5, .75]) and weight == pytest.approx([0, .5, .5]) and (low < mean).all() and (mean < high).all()
    with pytest.raises(ValueError, match="between 0 and count"): V.beta_posterior([3], [2])


# ---- the verifier

def small(seed=0): return V.TokenValueModel.from_causal_lm(lms.tiny_lm(seed=seed))


def several(n=12, seed=0, problems=3):
    rng, out = np.random.default_rng(seed), []
    for i in range(n):
        body = rng.integers(0, 3, rng.integers(1, 5)).tolist()
        out.append(path([*body, EOS], rng.random() < .5, f"p{i % problems}"))
    seen = {}
    return [dataclasses.replace(t, correct=seen.setdefault((t.problem, tuple(t.response_ids)), t.correct)) for t in out]  # equal tokens, equal outcome


@pytest.mark.parametrize("kind", ("mse", "bce"))
def test_values_theorem_outcomes_and_values_have_the_same_gradient(kind):
    "Full batch: the gradients agree; the losses differ by a constant."
    model, some = small().requires_grad_(True), several(30, problems=2)
    grads, losses = {}, {}
    for label in ("tvm", "ovm"):
        data = V.value_data(some, label, ends={EOS}, unique=False)
        batch = V.tensors(data, np.arange(len(data)))
        model.zero_grad()
        total, weight = V.step_losses(model, batch, kind, 0.)[0], V.denominators(data, range(len(data)))[0]
        (total/weight).backward()
        grads[label] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        losses[label] = float(total.detach())
    assert torch.dist(grads["tvm"], grads["ovm"]) < 1e-5*grads["ovm"].norm() and grads["ovm"].norm() > 1e-3
    if kind == "mse":
        spread = sum(float((v*(1 - v)).sum()) for x in [V.label_paths([t for t in some if t.problem == p], "tvm", ends={EOS}) for p in ("p0", "p1")] for v in x)
        assert losses["ovm"] - losses["tvm"] == pytest.approx(spread, rel=1e-4)
    data = V.value_data(some[:7], "ovm", ends={EOS}, unique=False)                  # a part of the paths: no longer the same
    part = [V.value_data(some, k, ends={EOS}, unique=False) for k in ("tvm", "ovm")]
    halves = []
    for d in part:
        model.zero_grad()
        V.step_losses(model, V.tensors(d, np.arange(7)), kind, 0.)[0].backward()
        halves.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.dist(*halves) > 1e-2*halves[1].norm()


def test_values_unique_paths_with_weights_are_the_whole():
    model, some = small().requires_grad_(True), several(40, problems=2)
    found = []
    for unique in (True, False):
        data = V.value_data(some, "tvm", ends={EOS}, unique=unique)
        model.zero_grad()
        (V.step_losses(model, V.tensors(data, np.arange(len(data))), "mse", .1)[0]/V.denominators(data, range(len(data)))[0]).backward()
        found.append((len(data), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    assert found[0][0] < found[1][0] == 40 and torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_values_padding_batching_and_later_tokens_change_nothing():
    model, some = small(), several()
    alone = [V.score_paths(model, [t])[0] for t in some]
    for a, b in zip(alone, V.score_paths(model, some, 5)): np.testing.assert_allclose(a, b, atol=1e-5)
    ids = torch.tensor([[1, 2, *some[0].response_ids]])
    left = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = torch.tensor([[0, 0, 0] + [1]*ids.shape[1]])
    torch.testing.assert_close(model(left, attention_mask=mask).values[:, 3:], model(ids).values, atol=1e-5, rtol=0)
    longer = torch.cat([ids, ids], 1)
    torch.testing.assert_close(model(longer).values[:, :ids.shape[1]], model(ids).values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ("llama", "qwen", "gpt2", "opt"))
def test_values_cache_increments_are_the_whole(family):
    model, ids = V.TokenValueModel.from_causal_lm(lms.tiny_lm(family)), torch.tensor([[1, 4, 2, 8, 5, 7]])
    whole, past, parts = model(ids).values, None, []
    for piece in ids.split(2, 1):
        out = model(piece, past_key_values=past, use_cache=True, attention_mask=torch.ones(1, sum(x.shape[1] for x in parts) + 2, dtype=torch.long))
        past = out.past_key_values
        parts.append(out.values)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=0)


def test_values_prompt_and_padding_get_no_gradient():
    data = V.value_data(several(), "tvm", ends={EOS})
    batch = V.tensors(data, np.arange(len(data)))
    logits = torch.zeros(batch["labels"].shape, requires_grad=True)
    V.value_loss(logits, batch["labels"], batch["weights"])[0].backward()
    for i in range(len(data)):
        lead, end = data.lead[i], len(data.ids[i])
        assert not logits.grad[i, :lead].any() and not logits.grad[i, end:].any() and not batch["responses"][i, :lead].any()
    prompted = batch["labels"].clone()
    prompted[:, 0] = 1.                                     # the fault: a label on the prompt
    other = torch.zeros_like(logits, requires_grad=True)
    V.value_loss(other, prompted, torch.ones_like(prompted))[0].backward()
    assert other.grad[:, 0].any()


def test_values_loss_is_the_weighted_mean_of_labelled_tokens():
    logits, labels = torch.tensor([[0., 2., -1.]]), torch.tensor([[1., math.nan, .25]])
    w = torch.tensor([[2., 5., 1.]])
    total, weight = V.value_loss(logits, labels, w)
    p = logits.sigmoid()
    assert float(total) == pytest.approx(float(2*(p[0, 0] - 1)**2 + (p[0, 2] - .25)**2)) and float(weight) == 3
    bce, _ = V.value_loss(logits, labels, w, "bce")
    assert float(bce) == pytest.approx(float(-2*p[0, 0].log() - .25*p[0, 2].log() - .75*(1 - p[0, 2]).log()), rel=1e-5)
    with pytest.raises(ValueError, match="mse or bce"): V.value_loss(logits, labels, w, "mae")


SAVED = """
import sys, json, torch
torch.set_num_threads(1)
from transformers import AutoModel
from tokenstudy.tvm import values
model = values.TokenValueModel.from_pretrained(sys.argv[1])
again = AutoModel.from_pretrained(sys.argv[1])
paths = json.loads(sys.argv[2])
print(json.dumps([[x.tolist() for x in values.score_paths(m, paths)] for m in (model, again)]))
"""


def test_values_saved_verifier_scores_the_same_in_a_fresh_process(tmp_path):
    model, paths = small(), [[[1, 2], [3, 4, EOS]], [[1], [5, EOS]]]
    model.save_pretrained(tmp_path/"v")
    assert {p.suffix for p in (tmp_path/"v").iterdir()} == {".json", ".safetensors"}
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", SAVED, str(tmp_path/"v"), json.dumps(paths)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    for found in json.loads(ran.stdout.splitlines()[-1]):
        for a, b in zip(found, V.score_paths(model, paths)): np.testing.assert_allclose(a, b, atol=1e-6)


# ---- training

def weights(run): return torch.cat([p.flatten() for p in run.model.parameters()])


@pytest.mark.parametrize("kind", V.LABELS)
def test_values_every_kind_trains(kind):
    base = lms.tiny_lm()
    before = torch.cat([p.flatten() for p in base.model.parameters()]).clone()
    run = V.train_verifier(base, several(), kind, steps={1}, epochs=2, batch_size=6)
    assert torch.equal(before, torch.cat([p.flatten() for p in base.model.parameters()])), "the base was changed"
    assert [e["epoch"] for e in run.log] == [1, 2] and all(math.isfinite(e["loss"]) for e in run.log) and run.tokens > 0
    assert torch.equal(weights(run), weights(V.train_verifier(base, several(), kind, steps={1}, epochs=2, batch_size=6)))


def test_values_training_learns_and_reports():
    some = [path([*([1] if i % 2 else [0]), 2, EOS], i % 2, f"p{i // 4}") for i in range(24)]
    run = V.train_verifier(lms.tiny_lm(), some, "tvm", epochs=30, lr=1e-2, batch_size=24, eval_data=some[:8])
    assert run.log[-1]["loss"] < .05 < run.log[0]["loss"] and run.log[-1]["eval_auc"] == 1 and run.log[-1]["eval_brier"] < .05
    good, bad = (V.score_paths(run.model, [([1, 2], [x, 2, EOS])])[0] for x in (1, 0))
    assert (good > .7).all() and (bad < .3).all()


@pytest.mark.parametrize("composition", V.COMPOSITIONS)
def test_values_micro_batches_change_nothing(composition):
    a, b = (V.train_verifier(lms.tiny_lm(), several(), "tvm", epochs=2, batch_size=6, micro_tokens=m, composition=composition) for m in (10**6, 12))
    torch.testing.assert_close(weights(a), weights(b), atol=2e-5, rtol=0)


def test_values_lora_trains_and_merges():
    from peft import LoraConfig
    run = V.train_verifier(lms.tiny_lm(), several(), "tvm", epochs=1, batch_size=6, peft_config=LoraConfig(r=2, target_modules="all-linear"))
    assert not any("lora" in k for k, _ in run.model.named_parameters()) and math.isfinite(run.log[0]["loss"])


KILLED = """
import os, signal, sys
import torch; torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from tokenstudy.tvm import values as V
from test_values import go_on
seen, real = [], V._step
def step(*a, **k):
    seen.append(1)
    if len(seen) == 4: os.kill(os.getpid(), signal.SIGKILL)
    return real(*a, **k)
V._step = step
go_on({out!r})
"""


def go_on(out): return V.train_verifier(lms.tiny_lm(), several(), "tvm", epochs=3, batch_size=6, output_dir=out, resume=True, save_every=0.)


def test_values_killed_training_goes_on_to_the_same_end(tmp_path):
    out = str(tmp_path/"killed")
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED.format(tests=str(Path(__file__).parent), out=out)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == -signal.SIGKILL, ran.stderr[-2000:]
    assert (tmp_path/"killed"/"checkpoint.safetensors").exists() and not (tmp_path/"killed"/"model").exists()
    straight, resumed = go_on(str(tmp_path/"straight")), go_on(out)
    assert torch.equal(weights(straight), weights(resumed)) and straight.log == resumed.log
    again = go_on(out)                                        # finished: loaded, not trained
    assert torch.equal(weights(again), weights(resumed))
    with pytest.raises(ValueError, match="other settings"): V.train_verifier(lms.tiny_lm(), several(), "ovm", epochs=3, batch_size=6, output_dir=out, resume=True)


def test_values_damaged_checkpoint_is_named(tmp_path):
    (tmp_path/"x").mkdir()
    (tmp_path/"x"/"checkpoint.safetensors").write_bytes(b"no")
    with pytest.raises(core.CorruptFileError, match="checkpoint"): go_on(str(tmp_path/"x"))


@pytest.mark.parametrize("kw, error, match", [
    (dict(lr=-1.), ValueError, "lr"), (dict(loss="mae"), ValueError, "mse or bce"), (dict(composition="mixed"), ValueError, "composition"),
    (dict(resume=True), ValueError, "output_dir"), (dict(prior=(1., 1.), kind="ovm"), ValueError, "prior")])
def test_values_wrong_settings_are_named(kw, error, match):
    with pytest.raises(error, match=match): V.train_verifier(lms.tiny_lm(), several(), **{"kind": "tvm", **kw})


def test_values_wrong_data_is_named():
    with pytest.raises(V.ValueDataError, match="nothing|no tokens"): V.value_data([], "tvm")
    with pytest.raises(V.ValueDataError, match="no step ends"): V.value_data(several(), "prm_soft", steps={29})
    with pytest.raises(V.ValueDataError, match="labels of 1"): V.value_data(several(), [[.5]])
    with pytest.raises(V.ValueDataError, match="outside"): V.value_data([path([1, EOS], 1)], [[.5, 2.]])
    with pytest.raises(V.ValueDataError, match="longer than"): V.train_verifier(lms.tiny_lm(), [path([1]*200 + [EOS], 1)], "tvm")


@pytest.mark.parametrize("poison, message", [("nan", "NaN"), ("answer", "answer|samples"), ("half", None)])
def test_values_poisoned_file_is_named_and_loses_nothing(tmp_path, poison, message):
    file = reasoning.TrajectoryFile(tmp_path/"t.jsonl")
    for p in ("p0", "p1"): file.append([t for t in several() if t.problem == p])
    lines = (tmp_path/"t.jsonl").read_text().splitlines(keepends=True)
    if poison == "nan": lines[2] = lines[2].replace("[0.0", "[NaN", 1)
    if poison == "answer": lines[2] = lines[2].replace('"samples"', '"sample"')
    if poison == "half": lines[2] = lines[2][:40]
    (tmp_path/"t.jsonl").write_text("".join(lines))
    if message:
        with pytest.raises(core.CorruptFileError, match="line 3"): V.value_data(list(reasoning.TrajectoryFile(tmp_path/"t.jsonl")), "tvm")
        assert (tmp_path/"t.jsonl").read_text() == "".join(lines)
    else:
        with pytest.warns(UserWarning, match="half-written"): found = list(reasoning.TrajectoryFile(tmp_path/"t.jsonl"))
        assert {t.problem for t in found} == {"p0"} and len(V.value_data(found, "tvm", ends={EOS})) > 0


# ---- judging

def test_values_quality_by_hand():
    some = [path([1, EOS], 1), path([0, EOS], 0)]
    found = V.value_quality([np.array([.8, .9]), np.array([.4, .1])], some, [[1., 1.], [0., 0.]])
    assert found["auc"] == 1 and found["brier"] == pytest.approx((.04 + .01 + .16 + .01)/4) and found["tokens"] == 4
    assert found["rmse"] == pytest.approx(math.sqrt(.22/4)) and found["correlation"] > .9
    assert V.value_quality([np.array([.5, .5])], some[:1])["correlation"] is None
    assert V.area_under_curve([.1, .4, .35, .8], [0, 0, 1, 1]) == .75
