"Values of tokens: labels by hand and against a slow reference, one gradient for outcomes and values, verifiers under padding and caches, training that survives a kill, doubtful samples, and mutants."
import copy
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats

from tokenstudy import core, lm as lms, reasoning
from tokenstudy.tvm import bench
from tokenstudy import tvm as values

LETTERS, RIGHT = ["abcd", "abce", "abf", "ag", "abcd", "h"], [1, 0, 1, 0, 1, 0]
NAN = float("nan")


def ids(text): return [ord(c) for c in text]


def made(text, correct, finished=True, answer="7", problem="p"):
    response = ids(text) if isinstance(text, str) else list(text)
    return reasoning.Trajectory(problem, [1, 2], response, [0.]*len(response), answer, bool(correct), finished)


@pytest.fixture(scope="module")
def toy(): return lms.tiny_lm("llama", vocab=8)


def samples(count=24, questions=3, seed=2):
    "Paths of a tiny model, token 7 at their ends; wrong where a token 3 is."
    drawn = lms.sample(lms.tiny_lm("llama", vocab=8), [[1, 2 + i//count] for i in range(count*questions)], max_new_tokens=5, seed=seed, temperature=1.5)
    return [reasoning.Trajectory(f"q{i//count}", list(s.prompt_ids), list(s.response_ids), [0.]*len(s.response_ids), None,
                                 bool(s.finished and 3 not in s.response_ids), bool(s.finished)) for i, s in enumerate(drawn)]


@pytest.fixture(scope="module")
def paths(): return samples()


# labels

def slow(paths, right, kind, steps=None):
    "Labels as the words say it, quadratic."
    out = []
    for path in paths:
        row = []
        for k in range(1, len(path) + 1):
            through = [y for p, y in zip(paths, right) if p[:k] == path[:k]]
            same = [y for p, y in zip(paths, right) if p == path]
            ends = k == len(path) or (k % steps == 0 if isinstance(steps, int) else path[k - 1] in (steps or ()))
            row.append(dict(tvm=np.mean(through), ovm=np.mean(same), orm=np.mean(same) if k == len(path) else NAN,
                            prm_soft=np.mean(through) if ends else NAN, prm_hard=float(any(through)) if ends else NAN)[kind])
        out.append(row)
    return out


def by_trie(paths, right, kind, steps=None):
    trie = reasoning.Trie(paths, right)
    return [x.tolist() for x in np.split(values.labels_flat(trie, kind, steps), trie.starts[1:-1])]


def same(a, b): return len(a) == len(b) and all(np.allclose(x, y, atol=1e-6, equal_nan=True) and len(x) == len(y) for x, y in zip(a, b))


def check_labels(labels):
    six = [ids(p) for p in LETTERS]
    tree = dict(a=3/5, ab=3/4, abc=2/3, abcd=1, abce=0, abf=1, ag=0, h=0)
    assert same(labels(six, RIGHT, "tvm"), [[tree[p[:k]] for k in range(1, len(p) + 1)] for p in LETTERS])
    assert same(labels(six, RIGHT, "ovm"), [[y]*len(p) for p, y in zip(LETTERS, RIGHT)])
    assert same(labels(six, RIGHT, "orm"), [[NAN]*(len(p) - 1) + [y] for p, y in zip(LETTERS, RIGHT)])
    assert same(labels(six, RIGHT, "prm_soft", ids("b")), [[NAN, 3/4, NAN, 1], [NAN, 3/4, NAN, 0], [NAN, 3/4, 1], [NAN, 0], [NAN, 3/4, NAN, 1], [0]])
    assert same(labels(six, RIGHT, "prm_hard", 2), [[NAN, 1, NAN, 1], [NAN, 1, NAN, 0], [NAN, 1, 1], [NAN, 0], [NAN, 1, NAN, 1], [0]])
    endings = [ids("ab$"), ids("abc$"), ids("$")]                    # a path that begins another
    assert [row[-1] for row in labels(endings, [1, 0, 1], "tvm")] == [1, 0, 1]


def test_values_labels_by_hand(): check_labels(by_trie)


MUTANTS = {
    "shifted by one": lambda p, y, *how: [[x[0], *x[:-1]] for x in by_trie(p, y, *how)],
    "end dropped": lambda p, y, *how: [[*x, x[-1]] for x in by_trie([q[:-1] or q for q in p], y, *how)],
    "copies removed before counting": lambda p, y, *how: (lambda once: [dict(zip(once, by_trie([list(q) for q in once], list(once.values()), *how)))[tuple(q)]
                                                                        for q in p])(dict(zip(map(tuple, p), y))),
    "outcomes for values": lambda p, y, kind, *how: by_trie(p, y, "ovm" if kind == "tvm" else kind, *how),
    "the path itself not counted": lambda p, y, kind, *how: by_trie(p, [1 - x for x in y], kind, *how)}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_values_label_mutants_are_caught(mutant):
    with pytest.raises(AssertionError): check_labels(MUTANTS[mutant])


some_paths = st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=5), st.integers(0, 1)), min_size=1, max_size=9)


@settings(max_examples=60)
@given(some_paths, st.sampled_from([1, 2, 3, (0,), (1, 2)]))
def test_values_labels_are_the_slow_reference(pairs, steps):
    paths, right = zip(*pairs)
    for kind in values.LABELS: assert same(by_trie(paths, right, kind, steps), slow(paths, right, kind, steps))


@settings(max_examples=40)
@given(some_paths, st.randoms(use_true_random=False))
def test_values_identities_on_random_tries(pairs, random):
    paths, right = [list(p) + [9] for p, _ in pairs], [y for _, y in pairs]
    trie = reasoning.Trie(paths, right)
    assert np.isclose(trie.value[0], np.mean(right))
    for u in range(len(trie)):
        below = trie.children(u)
        ending = trie.leaf == u
        assert np.isclose(trie.correct[u], (trie.count*trie.value)[below].sum() + trie.labels[ending].sum())
    order = list(range(len(paths)))
    random.shuffle(order)
    for kind in values.LABELS:
        moved = by_trie([paths[i] for i in order], [right[i] for i in order], kind, 2)
        assert same([by_trie(paths, right, kind, 2)[i] for i in order], moved)
    for p, y in zip(paths, right): assert by_trie([p], [y], "tvm") == by_trie([p], [y], "ovm")          # N_tr = 1


def test_values_of_a_constant_predictor():
    six = [ids(p) for p in LETTERS]
    tvm, ovm = (sum(((.5 - np.array(x))**2).sum() for x in by_trie(six, RIGHT, k)) for k in ("tvm", "ovm"))
    assert tvm == pytest.approx(1.88333, abs=1e-5) and ovm == pytest.approx(4.5) and ovm - tvm == pytest.approx(2.61667, abs=1e-5)


def test_values_converge_on_a_markov_policy():
    "Tokens 0 … 2, three of them, a right path has an even sum: exact values by enumeration, error falls like 1/√n."
    law = np.array([[.6, .3, .1], [.2, .5, .3], [.3, .3, .4]])
    chance = {p: (np.array([.5, .3, .2])[p[0]]*law[p[0], p[1]]*law[p[1], p[2]]) for p in itertools.product(range(3), repeat=3)}
    def exact(u):
        through = {p: c for p, c in chance.items() if p[:len(u)] == u}
        return sum(c for p, c in through.items() if sum(p) % 2 == 0)/sum(through.values())
    every, laws = list(chance), np.array(list(chance.values()))
    def error(n, seed):
        drawn = [every[i] for i in np.random.default_rng(seed).choice(len(every), n, p=laws)]
        trie = reasoning.Trie(drawn, [sum(p) % 2 == 0 for p in drawn])
        return np.mean([(trie.value[trie.find(u)] - exact(u))**2 for u in ((), (0,), (1,), (0, 0), (1, 1)) if trie.find(u) >= 0])
    few, many = (np.sqrt(np.mean([error(n, seed) for seed in range(20)])) for n in (100, 10_000))
    assert 6 < few/many < 16 and many < .02


def test_values_labels_are_made_in_a_process_of_their_own():
    told = bench.labels_scaling(10_000)
    assert told["tokens"] == 10_000 and told["seconds"] > 0 and told["bytes"] > 10**7
    with pytest.raises(core.TokenStudyError, match="labels of -100 tokens"): bench.labels_scaling(-100)


# doubtful samples

def test_values_review_counts_and_mends():
    end = {ord("z")}
    given = [made("abz", 1), made("acz", 0), made("ab", 0, finished=False), made("", 0, answer=None), made("acz", 0), made("azb", 1)]
    with pytest.warns(UserWarning, match="1 go on behind an end-of-sequence"): labels = values.label_paths(given, "tvm", ends=end)
    counts = values.problem_trie(given, end)[1]
    assert [counts[k] for k in ("paths", "right", "empty", "truncated", "behind_eos", "no_answer", "repeated", "mixed")] == [6, 2, 1, 1, 1, 1, 1, 0]
    assert same(labels, [[2/5, 1/2, 1], [2/5, 0, 0], [2/5, 1/2], [], [2/5, 0, 0], [2/5, 1, NAN]])
    with pytest.warns(UserWarning, match="cut off and count as wrong"):
        assert values.label_paths([made("ab", 1)], "tvm", ends=end)[0].tolist() == [0, 0]
    with pytest.warns(UserWarning, match="their label is the mean"):
        assert same(values.label_paths([made("az", 1), made("az", 0), made("az", 0)], "ovm"), [[1/3]*2]*3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values.label_paths(given[:5], "tvm", ends=end)
    with pytest.raises(values.ValueDataError, match="one problem"): values.problem_trie([made("a", 1), made("a", 1, problem="q")])


def test_values_bad_kinds_and_data_are_named():
    few = [made("abz", 1), made("acz", 0)]
    for call, message in ((lambda: values.label_paths(few, "prm"), "must be one of tvm"), (lambda: values.label_paths(few, "prm_hard"), "give `steps`"),
                          (lambda: values.label_paths(few, "prm_hard", 0), "must be ≥ 1"),
                          (lambda: values.value_data(few, "prm_soft", steps=[9]), "tokenises differently"),
                          (lambda: values.value_data([made("", 0)], "tvm"), "only empty ones"),
                          (lambda: values.value_data(few, [[0, 0, 1.5], [0, 0, 0]]), "outside"),
                          (lambda: values.value_data(few, [[0, 0], [0, 0, 0]]), "path 0 has 3 tokens"),
                          (lambda: values.value_data(few, [[NAN]*3]*2), "no token has a label"),
                          (lambda: values.value_data(few, "ovm", prior=(1, 1)), "have counts"),
                          (lambda: values.beta_posterior([3], [2]), "between 0 and count")):
        with pytest.raises(ValueError, match=message): call()


def test_values_from_a_poisoned_file(tmp_path):
    file = reasoning.TrajectoryFile(tmp_path/"t.sqlite")
    file.append([made("abz", 1), made("acz", 0, answer=None)], [made("az", 1, problem="q")])
    assert len(values.value_data(file, "tvm")) == 3 and values.value_data(file, "tvm").counts["no_answer"] == 1
    file.file.close()
    whole = (tmp_path/"t.sqlite").read_bytes()
    (tmp_path/"t.sqlite").write_bytes(whole.replace(b"null", b"nuul"))
    with pytest.raises(core.CorruptFileError, match="t.sqlite is damaged"): values.value_data(reasoning.TrajectoryFile(tmp_path/"t.sqlite"), "tvm")
    (tmp_path/"t.sqlite").write_bytes(whole)
    text = file.file.get("q")
    for bad, name in ((text.replace("0.0", "NaN", 1), "must be a finite number"), (text.replace('"3"', "7"), "answer must be text"), (text[:50], "problem 'q'")):
        if bad == text: continue
        file.file.put(dict(q=bad))
        with pytest.raises(core.CorruptFileError, match=name): values.value_data(reasoning.TrajectoryFile(tmp_path/"t.sqlite"), "tvm")


def test_values_beta_posterior_is_scipys():
    right, count = np.array([0, 1, 7]), np.array([0, 3, 9])
    mean, low, high, weight = values.beta_posterior(right, count, (2, 3), .9)
    law = stats.beta(2 + right, 3 + count - right)
    assert np.allclose(mean, law.mean()) and np.allclose([low, high], law.interval(.9)) and np.allclose(weight, count/(count + 5))


def test_values_rollout_labels_are_plain_rollouts(toy, paths):
    t = max(paths, key=lambda t: len(t.response_ids))
    told = values.prm_rollouts(toy, [t], lambda ids: 3 not in ids, 2, n=8, max_total=5, temperature=1.5)[0]
    places = [k for k in range(1, len(t.response_ids) + 1) if k % 2 == 0 or k == len(t.response_ids)]
    r = lms.rollouts(toy, t.prompt_ids, t.response_ids, 8, places, max_total=5, temperature=1.5)
    for a, place in enumerate(places):
        share = np.mean([bool(end) and 3 not in list(ids) for end, ids in zip(r.finished[a], r.responses(a))])
        assert told[place - 1] == pytest.approx(share)
    assert np.isnan(told[[i for i in range(len(told)) if i + 1 not in places]]).all()


# the data of a training

def check_batch(make):
    "Weights are multiplicities, prompts and padding carry nothing, labels come from all samples."
    data = values.value_data([made("abz", 1), made("abz", 1), made("acdz", 0)], "tvm")
    batch = make(data, [0, 1], 0)
    x = torch.zeros(batch["labels"].shape, requires_grad=True)
    total, weight = values.value_loss(x, batch["labels"], batch["weights"])
    g = torch.autograd.grad(total, x)[0]
    assert weight == 2*3 + 4
    assert (g[:, :2] == 0).all() and (g[0, 5:] == 0).all()
    want = [[2*2*(.5 - y)/4 for y in (2/3, 1, 1)], [2*(.5 - y)/4 for y in (2/3, 0, 0, 0)]]
    assert torch.allclose(g[0, 2:5], torch.tensor(want[0])) and torch.allclose(g[1, 2:], torch.tensor(want[1]))


def test_values_prompt_and_padding_get_no_gradient(): check_batch(values.tensors)


@pytest.mark.parametrize("mutant", ["weights ignored", "prompt labelled", "padding labelled", "shifted by one"])
def test_values_batch_mutants_are_caught(mutant):
    def make(*args):
        batch = values.tensors(*args)
        if mutant == "weights ignored": batch["weights"] = batch["weights"].clamp(max=1)
        if mutant == "prompt labelled": batch["labels"][:, 1], batch["weights"][:, 1] = .9, 1
        if mutant == "padding labelled": batch["labels"][0, 5], batch["weights"][0, 5] = 0, 1
        if mutant == "shifted by one": batch["labels"], batch["weights"] = batch["labels"].roll(-1, 1), batch["weights"].roll(-1, 1)
        return batch
    with pytest.raises(AssertionError): check_batch(make)


def test_values_batches_hold_each_path_once(paths):
    data = values.value_data(paths, "tvm", unique=False)
    lengths = np.array([len(x) for x in data.ids])
    for composition in values.COMPOSITIONS:
        plan = values.batches(data, 10, composition, 0, 1)
        assert sorted(np.concatenate(plan)) == list(range(len(data)))
        whole = all(set(np.flatnonzero(np.isin(data.problem, data.problem[rows]))) == set(rows) for rows in plan)
        assert whole == (composition == "question")
        for rows in plan:
            parts = values.micro_batches(lengths, rows, 16)
            assert sorted(np.concatenate(parts)) == sorted(rows) and all(len(p) == 1 or len(p)*lengths[p].max() <= 16 for p in parts)


def gradient(model, data, loss, rows=None):
    rows = np.arange(len(data)) if rows is None else rows
    batch = values.tensors(data, rows)
    total = values.value_loss(model(input_ids=batch["input_ids"]).logits, batch["labels"], batch["weights"], loss)[0]
    model.zero_grad()
    (total/values.denominators(data, rows)[0]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_values_and_outcomes_have_one_gradient(toy, paths, loss):
    model = values.TokenValueModel.from_causal_lm(toy)
    with torch.no_grad(): model.value_head.weight.mul_(20)            # not near .5
    want = gradient(model, values.value_data(paths, "ovm"), loss)
    def apart(data, rows=None): return float((gradient(model, data, loss, rows) - want).norm()/want.norm())
    assert apart(values.value_data(paths, "tvm")) < 5e-6 > apart(values.value_data(paths, "tvm", unique=False))
    once = list({(t.problem, *t.response_ids): t for t in paths}.values())
    assert apart(values.value_data(once, "tvm")) > 1e-3               # copies removed before counting
    shifted = values.value_data(paths, "tvm")
    shifted.labels = [np.concatenate([x[:1], x[:-1]]) for x in shifted.labels]
    assert apart(shifted) > 1e-3
    tvm, rows = values.value_data(paths, "tvm"), np.arange(0, len(values.value_data(paths, "tvm")), 2)
    half = gradient(model, values.value_data(paths, "ovm"), loss, rows)
    assert float((gradient(model, tvm, loss, rows) - half).norm()/half.norm()) > 1e-3


# verifiers

@pytest.mark.parametrize("family", ["llama", "qwen", "gpt2", "opt"])
def test_values_do_not_depend_on_padding_batch_cache_or_later_tokens(family):
    model = values.TokenValueModel.from_causal_lm(lms.tiny_lm(family, vocab=12), seed=1)
    with torch.no_grad(): model.value_head.weight.mul_(20)
    text = torch.tensor([[3, 1, 4, 1, 5, 9, 2]])
    with torch.no_grad():
        whole = model(text, attention_mask=torch.ones_like(text)).values
        for left, right in ((0, 4), (3, 0)):
            pad = torch.nn.functional.pad
            padded = model(pad(text, (left, right)), attention_mask=pad(torch.ones_like(text), (left, right))).values
            assert torch.allclose(padded[:, left:left + 7], whole, atol=1e-5)
        later = text.clone()
        later[0, 4:] = torch.tensor([7, 7, 8])
        changed = model(later, attention_mask=torch.ones_like(text)).values
        assert torch.allclose(changed[:, :4], whole[:, :4], atol=1e-6) and not torch.allclose(changed[:, 4:], whole[:, 4:], atol=1e-4)
        cache, parts = None, []
        for a, b in ((0, 3), (3, 4), (4, 7)):
            out = model(text[:, a:b], attention_mask=torch.ones(1, b, dtype=torch.long), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.values)
        assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)
    rows = [([3, 1], [4, 1, 5, 9, 2]), ([3], [1]), ([5, 5, 5], []), ([2, 9], [8, 7, 6])]
    one = [values.score_paths(model, [r])[0] for r in rows]
    assert np.allclose(one[0], whole[0, 2:], atol=1e-5)
    assert all(np.allclose(a, b, atol=1e-5) and len(a) == len(r[1]) for a, b, r in zip(one, values.score_paths(model, rows, 2), rows))
    with pytest.raises(values.ValueDataError, match="path 0 has no prompt"): values.score_paths(model, [([], [1])])


SETTINGS = dict(epochs=2, batch_size=12, lr=3e-3, seed=3)
CHILD = """
    import os, signal, sys
    sys.path[:0] = {path!r}
    import numpy as np
    from transformers import AutoModel
    import test_values as T
    from tokenstudy import lm as lms
    from tokenstudy.tvm import values
    model = AutoModel.from_pretrained({model!r}).train(False)
    np.save({told!r}, np.concatenate(values.score_paths(model, T.samples())))
    keep, done = values.reasoning.keep_checkpoint, []
    def die(*args):
        keep(*args)
        done.append(1)
        if len(done) == 3: os.kill(os.getpid(), signal.SIGKILL)
    values.reasoning.keep_checkpoint = die
    values.train_verifier(lms.tiny_lm("llama", vocab=8), T.samples(), "tvm", composition="shuffled", save_every=0, output_dir={out!r}, **T.SETTINGS)
"""


def state(model): return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_values_verifier_in_a_fresh_process_and_after_a_kill(toy, paths, tmp_path):
    straight = values.train_verifier(toy, paths, "tvm", composition="shuffled", output_dir=tmp_path/"straight", **SETTINGS)
    script = textwrap.dedent(CHILD.format(path=[os.path.dirname(__file__), os.getcwd()], model=str(tmp_path/"straight"/"model"),
                                          told=str(tmp_path/"told.npy"), out=str(tmp_path/"killed")))
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=500)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert np.array_equal(np.load(tmp_path/"told.npy"), np.concatenate(values.score_paths(straight.model, paths)))
    assert sorted(p.name for p in (tmp_path/"killed").iterdir()) == ["checkpoint.safetensors"]
    torn = (tmp_path/"killed"/"checkpoint.safetensors").read_bytes()
    def resume(**changed):
        return values.train_verifier(toy, paths, "tvm", composition="shuffled", output_dir=tmp_path/"killed", resume=True, **SETTINGS | changed)
    with pytest.raises(ValueError, match="other settings"): resume(lr=1e-3)
    (tmp_path/"killed"/"checkpoint.safetensors").write_bytes(torn[:300])
    with pytest.raises(core.CorruptFileError, match="not readable"): resume()
    (tmp_path/"killed"/"checkpoint.safetensors").write_bytes(torn)
    resumed = resume()
    assert torch.equal(state(resumed.model), state(straight.model)) and resumed.tokens == straight.tokens
    assert [e["loss"] for e in resumed.log] == pytest.approx([e["loss"] for e in straight.log], abs=1e-9)
    assert torch.equal(state(resume().model), state(straight.model))       # it is done; loaded from the folder
    (tmp_path/"killed"/"model"/"run.json").write_text("{")
    with pytest.raises(core.CorruptFileError, match="run.json is not readable"): resume()


def test_values_training_with_whole_questions_is_one_for_both_labels(toy, paths):
    def told(kind, composition, **more):
        run = values.train_verifier(toy, paths, kind, composition=composition, **SETTINGS | more)
        return np.concatenate(values.score_paths(run.model, paths))
    same = np.abs(told("tvm", "question") - told("ovm", "question")).max()
    cut = told("tvm", "question", micro_tokens=16)
    assert same < 1e-4 and np.allclose(told("tvm", "question"), cut, atol=1e-5)
    assert np.abs(told("tvm", "shuffled") - told("ovm", "shuffled")).max() > 3e-4


def test_values_training_learns_and_judges(toy, paths):
    before = state(toy.model).clone()
    run = values.train_verifier(toy, paths, "prm_soft", steps=2, epochs=6, lr=1e-2, batch_size=16, loss="bce", eval_data=samples(8, seed=5))
    assert run.log[-1]["loss"] < run.log[0]["loss"] and len(run.log) == 6 and run.counts["paths"] == len(paths)
    assert {"eval_ece", "eval_brier", "eval_auc", "eval_correlation"} <= run.log[0].keys() and run.log[-1]["eval_auc"] > .7
    assert torch.equal(before, state(toy.model)) and not run.model.training
    assert values.value_quality(run.model, paths)["auc"] > .7


def test_values_training_refuses_nonsense(toy, paths):
    for options, message in ((dict(composition="all"), "question, shuffled"), (dict(loss="l1"), "mse or bce"), (dict(epochs=0), "epochs = 0"),
                             (dict(resume=True), "give output_dir"), (dict(kind="vm"), "must be one of")):
        with pytest.raises(ValueError, match=message): values.train_verifier(toy, paths, **dict(kind="tvm") | options)
    long = [dataclasses.replace(paths[0], response_ids=[2]*127 + [7], logprobs=[0.]*128)]
    with pytest.raises(values.ValueDataError, match="context of 128"): values.train_verifier(toy, long, "tvm")
    broken = copy.deepcopy(toy.model)
    with torch.no_grad(): broken.model.embed_tokens.weight[2] = NAN
    with pytest.raises(values.TrainingError, match="step 1 of"): values.train_verifier(broken, paths, "tvm", epochs=1)


def test_values_lora_is_merged(toy, paths):
    from peft import LoraConfig
    run = values.train_verifier(toy, paths, "tvm", peft_config=LoraConfig(r=2, target_modules="all-linear"), epochs=1, batch_size=24)
    assert isinstance(run.model, values.TokenValueModel) and not any("lora" in n for n, _ in run.model.named_parameters())
    assert not torch.equal(state(run.model.lm), state(toy.model)) and len(values.score_paths(run.model, paths[:2])) == 2


# quality

@given(st.lists(st.tuples(st.sampled_from([0, .1, .5, .9]), st.booleans()), min_size=2, max_size=12))
def test_values_area_under_curve_counts_pairs(rows):
    v, y = zip(*rows)
    pairs = [(a > b) + .5*(a == b) for a, ya in rows if ya for b, yb in rows if not yb]
    told = values.area_under_curve(v, y)
    assert told is None if not pairs else told == pytest.approx(np.mean(pairs))


def test_values_quality_of_the_truth_and_of_nonsense():
    some = [made("abz", 1), made("acz", 0), made("acdz", 1), made("h", 0, problem="q")]
    truth = [x for g in (some[:3], some[3:]) for x in values.label_paths(g, "tvm")]
    best = values.value_quality(truth, some)
    assert best["correlation"] == pytest.approx(1) and best["ece"] == pytest.approx(0, abs=1e-6) and best["rmse"] == 0 and best["tokens"] == 11
    flat = values.value_quality([np.full(len(t.response_ids), .5) for t in some], some)
    assert flat["correlation"] is None and flat["auc"] == .5 and flat["brier"] == .25
    a, b, n = values.calibration([.05, .05, .95, 1.], [0, .2, 1, 1])
    assert np.allclose(a, [.05, .975]) and np.allclose(b, [.1, 1]) and n.tolist() == [2, 2]
    with pytest.raises(values.ValueDataError, match="no trajectories"): values.value_quality([], [])
    assert json.dumps(core.plain(best))


def test_values_delimiters_are_found_inside_tokens():
    class Fake:
        words = ["a", "\n", ".\n", "b."]
        def __len__(self): return 4
        def batch_decode(self, rows): return [self.words[i] for i, in rows]
    assert values.delimiter_ids(Fake()) == {1, 2} and values.delimiter_ids(Fake(), ".") == {2, 3}
    with pytest.raises(ValueError, match="no token"): values.delimiter_ids(Fake(), "§")


# found by a reviewer who wrote it all again

def test_values_rollouts_need_room(toy, paths):
    long = max(paths, key=lambda t: len(t.response_ids))
    with pytest.raises(ValueError, match="longer than max_total"): values.prm_rollouts(toy, [long], lambda ids: True, 1, n=2, max_total=len(long.response_ids) - 1)


def test_values_steps_are_read_once_and_checked():
    twice = [made([3, 4, 9], 1), made([3, 4, 9], 1, problem="q")]
    for x in values.value_data(twice, "prm_hard", steps=iter([3])).labels: assert same([x], [[1, NAN, 1]])
    for bad in (True, (), 0, 1.5):
        with pytest.raises(ValueError, match="steps"): values.label_paths(twice[:1], "prm_hard", bad)
    assert same(values.label_paths(twice[:1], "prm_soft", np.int64(2)), [[NAN, 1, 1]])
    assert len(values.value_data([made([3, 4, 5], 1)], "prm_soft", steps={5})) == 1         # a delimiter at the very end is one


def test_values_data_know_their_labels(toy, paths):
    data = values.value_data(paths, "ovm")
    with pytest.raises(values.ValueDataError, match="labels of this data are ovm"): values.train_verifier(toy, data, "tvm")
    assert values.train_verifier(toy, data, epochs=1).kind == "ovm" and values.train_verifier(toy, paths, epochs=1).kind == "tvm"


def test_values_scores_do_not_depend_on_dropout(paths):
    model = values.TokenValueModel.from_causal_lm(lms.tiny_lm("gpt2", vocab=8)).train()
    assert same(values.score_paths(model, paths[:4]), values.score_paths(model.train(False), paths[:4]))
    assert all(m.training for m in model.train().modules()) and values.score_paths(model, paths[:1]) and model.training


def test_values_quality_refuses_what_does_not_fit(paths):
    two = paths[:2]
    with pytest.raises(values.ValueDataError, match="path 0"): values.value_quality([[.5]*(len(t.response_ids) + 1) for t in two], two)
    with pytest.raises(values.ValueDataError, match="in \\[0, 1\\]"): values.value_quality([[NAN]*len(t.response_ids) for t in two], two)
    with pytest.raises(ValueError, match="empty"): values.delimiter_ids(reasoning.arithmetic_tokenizer(), "")


def test_values_refuse_what_is_no_verifier(toy, paths, tmp_path):
    toy.model.save_pretrained(tmp_path/"lm")
    with pytest.raises(ValueError, match="type llama, not a verifier"): values.TokenValueModel.from_pretrained(tmp_path/"lm")
    with pytest.raises(ValueError, match="type str"): values.TokenValueModel.from_causal_lm("lm")
    small = values.TokenValueModel.from_causal_lm(lms.tiny_lm("llama", vocab=4))
    with pytest.raises(values.ValueDataError, match="vocabulary of 4"): values.score_paths(small, paths)
    with pytest.raises(values.ValueDataError, match="vocabulary of 4"): values.train_verifier(small, paths)
