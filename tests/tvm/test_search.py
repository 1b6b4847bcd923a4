"Search: trees against a slow loop without cache or batch, costs against the trie, resumption after kill -9, bad input; and each checker fails when a fault is put in."
import functools
import itertools
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from conftest import ROOT
from tokenstudy import core, lm, reasoning
from tokenstudy.lm import rows as rows_
from tokenstudy.tvm import policies
from tokenstudy.tvm import search as search_
from tokenstudy.tvm.verifier import TokenValueModel, score_responses
from tokenstudy.tvm.voting import ScoreError, best_of_n, sample_score, weighted_vote
from tokenstudy.tvm.candidates import Candidate, SearchResult
from tokenstudy.tvm.search import tree_search
from tokenstudy.tvm.policies import beam_policy, rebase, rebase_policy, step_beam
from tvm.toys import EOS, FAMILIES, Judge, PROMPTS, ids, made, tiny


@functools.cache
@torch.no_grad()
def logits_of(family, seed, text): return tiny(family, seed).model(input_ids=torch.tensor([text])).logits[0, -1]


def value(family, text): return float((logits_of(family, 5, tuple(text))[4].double() / 6).sigmoid())


def slow_beam(values, parents, open, done, K, b):
    left, out = sorted(open + done), []
    while left and len(out) < b:
        best = left[0]
        for i in left:
            if values[i] > values[best]: best = i
        left.remove(best)
        out.append((best, 0 if best in done else K // b))
    return out


def slow_dvts(values, parents, open, done, K, b):
    trees = {}
    for i in sorted(open + done):
        root = i
        while parents[root] != -1: root = parents[root]
        trees.setdefault(root * b // K, []).append(i)
    return [pair for tree in sorted(trees) for pair in slow_beam(values, parents, [i for i in trees[tree] if i in open], [i for i in trees[tree] if i in done], K // b, 1)]


def slow_rebase(values, parents, open, done, K, temperature=.2):
    budget = K - len(done)
    if not open or budget <= 0: return [(i, 0) for i in done]
    weights = [math.exp(values[i] / temperature) for i in open]
    shares = [budget * w / sum(weights) for w in weights]
    counts = [int(s + 1e-9) for s in shares]
    while sum(counts) < budget:
        rest = [s - c for s, c in zip(shares, counts)]
        counts[rest.index(max(rest))] += 1
    return [(i, 0) for i in done] + [(i, c) for i, c in zip(open, counts) if c]


SLOW = dict(step_beam=slow_beam, dvts=slow_dvts, rebase=slow_rebase)


def slow_search(family, prompt, stream, K, choose, ends, most, max_steps=6, step_tokens=100, seed=0, look=0, **warp):
    "One question, one candidate at a time, one forward pass over the whole text for each token: nodes (step, parent, tokens, value, finished) and final."
    nodes, text, numbers, live, final = [], {-1: []}, {}, [(-1, K)], []
    for step in range(max_steps):
        made, slot = [], 0
        for parent, width in live:
            for j in range(width):
                u = numbers[parent] if parent >= 0 and j == 0 else np.random.default_rng([seed, stream * K + slot, step]).random(most)
                slot, out, own = slot + 1, list(text[parent]), []
                while not own or not (own[-1] == EOS or len(out) == most or len(own) == step_tokens or ends(own)):
                    p = lm.warp(logits_of(family, 0, tuple(prompt + out)), **warp)
                    own.append(int(lm.pick(p[None], torch.tensor([u[len(out)]]))))
                    out.append(own[-1])
                ahead = list(out)
                while len(ahead) < min(len(out) + look, most) and ahead[-1] != EOS: ahead.append(int(logits_of(family, 0, tuple(prompt + ahead)).argmax()))
                node = len(nodes)
                text[node], numbers[node] = out, u
                nodes.append((step, parent, own, value(family, prompt + ahead), own[-1] == EOS))
                made.append(node)
        over = lambda n: nodes[n][4] or len(text[n]) == most
        pool = [n for n, _ in live if n >= 0 and over(n)] + made
        live = choose([n[3] for n in nodes], [n[1] for n in nodes], [n for n in pool if not over(n)], [n for n in pool if over(n)])
        final = [n for n, _ in live]
        if not any(width for _, width in live): break
    return nodes, final


def check_search(family="llama", method="step_beam", K=6, b=2, ends=dict(block=3), most=12, prompts=PROMPTS, seed=3, look=0, fast={}, **options):
    found = getattr(policies, method)(tiny(family), Judge(family), prompts, K=K, **(dict(b=b) if method != "rebase" else {}), max_steps=6, max_new_tokens=most,
                                    seed=seed, lookahead=look, **ends, **options, **fast)
    stop = (lambda own: len(own) >= ends["block"]) if "block" in ends else (lambda own: own[-1] in ends["delimiter"])
    choose = functools.partial(SLOW[method], K=K, **({} if method == "rebase" else dict(b=b)))
    for i, (prompt, r) in enumerate(zip(prompts, found, strict=True)):
        nodes, final = slow_search(family, prompt, i, K, choose, stop, most, seed=seed, look=look, **options)
        assert [(n.step, n.parent, n.tokens, n.finished) for n in r.nodes] == [(*n[:3], n[4]) for n in nodes]
        assert np.allclose([n.value for n in r.nodes], [n[3] for n in nodes], atol=1e-4) and r.final == final
        assert r.prompt_ids == prompt and r.counts["tokens"] == sum(len(n[2]) for n in nodes)
        assert {i for i, n in enumerate(r.nodes) if n.kept} >= {n.parent for n in r.nodes} - {-1} | set(final)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_search_is_what_a_plain_loop_finds(family): check_search(family)


@pytest.mark.parametrize("method", ["dvts", "rebase"])
def test_search_other_policies(method): check_search("llama", method, prompts=PROMPTS[:3])


@pytest.mark.parametrize("method", ["step_beam", "rebase"])
def test_search_lookahead(method): check_search("llama", method, look=2, prompts=PROMPTS[:2])


@given(st.sampled_from(["step_beam", "dvts", "rebase"]), st.sampled_from([(4, 2), (6, 3), (5, 1), (3, 3)]), st.sampled_from([dict(block=1), dict(block=4), dict(delimiter=[4, 5])]),
       st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([.4, 1., 2.]), st.sampled_from([1., .7]), st.sampled_from([0, 1]), st.booleans())
@settings(max_examples=6)
def test_search_any_settings(method, sizes, ends, most, seed, temperature, top_p, look, recompute):
    check_search("llama", method, *sizes, ends, most, PROMPTS[:2], seed, look, dict(recompute=recompute, batch_size=1 + seed % 2), temperature=temperature, top_p=top_p)


def same_search(a, b):
    "Whether two searches are the same but for rounding and for costs."
    for x, y in zip(a, b, strict=True):
        assert [(n.step, n.parent, n.tokens, n.kept, n.finished) for n in x.nodes] == [(n.step, n.parent, n.tokens, n.kept, n.finished) for n in y.nodes]
        assert np.allclose([n.value for n in x.nodes], [n.value for n in y.nodes], atol=1e-5) and x.final == y.final and x.problem == y.problem
    return True


def test_search_does_not_depend_on_the_batch():
    run = lambda prompts=PROMPTS, **options: step_beam(tiny("llama"), Judge("llama"), prompts, K=6, b=2, block=3, max_new_tokens=12, **options)
    whole = run()
    for size in (1, 3): assert same_search(whole, run(batch_size=size))
    assert same_search(whole[2:3] + whole[:1], [SimpleNamespace(**{**vars(r), "problem": p}) for r, p in zip(run([PROMPTS[2], PROMPTS[0]], streams=[2, 0]), "20")])
    assert [n.tokens for n in run(seed=1)[0].nodes] != [n.tokens for n in whole[0].nodes]


def test_search_of_a_data_set_goes_by_id():
    generator, problems = reasoning.load_generator("cpu"), reasoning.arithmetic(4, split="test", seed=3)
    run = lambda some: step_beam(generator, lambda p, r: float(len(set(r))) / 40, some, K=4, b=2, delimiter=".", max_new_tokens=60, answer=reasoning.arithmetic_answer)
    whole, part = run(problems), run(problems.select([3, 1]))
    assert same_search([whole[3], whole[1]], part) and [r.problem for r in part] == [problems["id"][3], problems["id"][1]]
    for r in whole:
        texts = [reasoning.text_of(generator.tokenizer, r.response(i)) for i in r.final]
        assert r.answers == [reasoning.arithmetic_answer(t) if r.nodes[i].finished else None for i, t in zip(r.final, texts)]
        at = best_of_n(r.answers, r.scores())
        assert r.answer == (None if at is None else r.answers[at])
        steps = [n.tokens for n in r.nodes if not n.finished]
        assert all(generator.tokenizer.convert_ids_to_tokens(s)[-1] == "." for s in steps if len(s) < 50)
        assert {len(r.path(i)) for i in r.final} and r.values(r.final[0])[-1] == r.nodes[r.final[0]].value


def test_search_that_keeps_all_is_plain_sampling():
    for family in ("llama", "gpt2"):
        for K, ends in ((1, dict(delimiter=[3, 4])), (3, dict(block=2))):
            plain = lm.sample(tiny(family), PROMPTS, max_new_tokens=9, num_samples=K, seed=7, temperature=.9, top_p=.95)
            found = step_beam(tiny(family), Judge(family), PROMPTS, K=K, b=K, max_steps=9, max_new_tokens=9, seed=7, temperature=.9, top_p=.95, **ends)
            for i, r in enumerate(found):
                assert sorted(r.response(j) for j in r.final) == sorted(s.response_ids for s in plain[i * K:i * K + K])


def check_costs(method="step_beam", **options):
    "What is read is what the formulas say: inner nodes of the trie; different steps once; and full texts if recomputed."
    run = lambda **more: getattr(policies, method)(tiny("llama"), Judge("llama"), PROMPTS, K=6, block=3, max_new_tokens=12, **options, **more)
    cached, again = run(), run(recompute=True)
    same_search(cached, again)
    for prompt, a, b in zip(PROMPTS, cached, again):
        texts = [a.response(i) for i in range(len(a.nodes))]
        trie = reasoning.Trie(texts)
        inner = int((np.diff(trie.first)[1:] > 0).sum())
        assert a.counts["generator"] == len(prompt) + inner
        assert a.counts["verifier"] == len(prompt) + sum(len(n.tokens) for n in {tuple(t): n for t, n in zip(texts, a.nodes)}.values())
        assert b.counts["generator"] == sum(len(prompt) + len(t) - 1 for t in texts)
        assert b.counts["verifier"] == sum(len(prompt) + len(t) for t in texts) and a.counts["lookahead"] == b.counts["lookahead"] == 0


@pytest.mark.parametrize("method", ["step_beam", "rebase"])
def test_search_costs(method): check_costs(method)


def test_search_keeps_finished_beams():
    "A finished candidate of the highest value stays to the end, has no children and is not written again."
    run = lambda score: step_beam(tiny("llama"), score, PROMPTS, K=6, b=2, block=2, max_new_tokens=12)
    found = run(lambda prompt, response: 1. if response[-1] == EOS else .5)
    assert any(r.nodes[i].finished and r.nodes[i].step < max(n.step for n in r.nodes) for r in found for i in r.final)
    for r in found:
        assert not any(n.parent >= 0 and r.nodes[n.parent].finished for n in r.nodes)
        assert all(EOS not in n.tokens[:-1] for n in r.nodes)
        assert sorted(map(r.nodes.__getitem__, r.final), key=lambda n: -n.value) == [r.nodes[i] for i in r.final]
        assert r.nodes[r.best].finished == any(r.nodes[i].finished for i in r.final)
    loses = run(lambda prompt, response: 0. if response[-1] == EOS else .5)
    assert not any(r.nodes[i].finished for r in loses for i in r.final)
    cut = step_beam(tiny("llama"), None, PROMPTS[:1], K=2, b=2, block=2, max_new_tokens=3)[0]
    assert {len(cut.response(i)) for i in cut.final if not cut.nodes[i].finished} <= {3}


def test_search_with_true_values_reaches_the_goal():
    "A verifier that knows the one right text leads the beam along it wherever it is written."
    greedy = lm.sample(tiny("qwen"), PROMPTS[:2], max_new_tokens=10, temperature=0)
    for i, s in enumerate(greedy):
        score = lambda p, r, s=s: len([1 for _ in itertools.takewhile(lambda ab: ab[0] == ab[1], zip(r, s.response_ids))]) / 10
        r = step_beam(tiny("qwen"), score, [PROMPTS[i]], K=16, b=2, block=1, max_steps=10, max_new_tokens=10)[0]
        assert [n.value for n in r.nodes] == [score(None, r.response(j)) for j in range(len(r.nodes))]
        for step in range(10):
            here = [n for n in r.nodes if n.step == step]
            assert not here or max(n.value for n in here if n.kept or not any(m.kept for m in here)) == max(n.value for n in here)


def test_search_with_a_trained_kind_of_verifier():
    for family in ("llama", "gpt2"):
        model = TokenValueModel.from_causal_lm(tiny(family, 5))
        cached, again = (step_beam(tiny(family), model, PROMPTS, K=4, b=2, block=3, max_new_tokens=9, recompute=r) for r in (False, True))
        assert same_search(cached, again)
        paths = [(r.prompt_ids, r.response(i)) for r in cached for i in range(len(r.nodes))]
        assert np.allclose([x[-1] for x in score_responses(model, paths)], [n.value for r in cached for n in r.nodes], atol=1e-5)


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import conftest
from tokenstudy import core
from tvm.toys import Judge, PROMPTS, tiny
from tokenstudy.tvm.policies import step_beam
runs = core.Runs("tvm/killed", {root!r})
append, count = runs.append, []
def dying(*records):
    append(*records)
    count.extend(records)
    if len(count) == 2: os.kill(os.getpid(), signal.SIGKILL)
runs.append = dying
step_beam(tiny("llama"), Judge("llama"), PROMPTS, K=4, b=2, block=3, max_new_tokens=9, runs=runs, batch_size=1)
"""


def test_search_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(tests=str(ROOT/"tests"), root=str(tmp_path))], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]
    waves, wave = [], search_._search_wave
    monkeypatch.setattr(search_, "_search_wave", lambda questions, *rest: (waves.append([q.problem for q in questions]), wave(questions, *rest)))
    runs, how = core.Runs("tvm/killed", tmp_path), dict(block=3, max_new_tokens=9)
    found = step_beam(tiny("llama"), Judge("llama"), PROMPTS, K=4, b=2, runs=runs, **how)
    assert waves == [["2", "3"]] and len(runs) == 4
    fresh = step_beam(tiny("llama"), Judge("llama"), PROMPTS, K=4, b=2, **how)
    assert same_search(found, fresh) and [r.counts for r in found] == [r.counts for r in fresh]
    waves.clear()
    assert same_search(step_beam(tiny("llama"), Judge("llama"), PROMPTS, K=4, b=2, runs=runs, **how), fresh) and not waves
    for other in (dict(seed=1), dict(temperature=.5), dict(lookahead=1), dict(config=dict(a=1))):
        step_beam(tiny("llama"), Judge("llama"), PROMPTS[:1], K=4, b=2, runs=runs, **(how | other))
    step_beam(tiny("llama"), Judge("llama", 6), PROMPTS[:1], K=4, b=2, runs=runs, **how)
    step_beam(tiny("llama", 1), Judge("llama"), PROMPTS[:1], K=4, b=2, runs=runs, **how)
    rebase(tiny("llama"), Judge("llama"), PROMPTS[:1], K=4, runs=runs, **how)
    assert len(waves) == 7 and len(runs) == 11                   # each is other work


def test_search_records_round_trip():
    r = check_search(prompts=PROMPTS[:1])[0]
    again = SearchResult.of(json.loads(json.dumps(r.plain())))
    assert again == r and again.values(again.best) == r.values(r.best)


MUTANTS = ["cache rows not reordered", "values of the parent", "finished re-expanded", "padding attended", "kept rows mixed up", "first child does not go on",
           "one stream for all children", "lookahead ignored", "beam keeps the worst", "last token not read", "reads counted twice", "positions not counted"]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_search_mutants_are_caught(mutant, monkeypatch):
    pick, score, pad, merge, children = search_.CachedRows.pick, search_._Scorer.score, rows_.pad, search_.merge_rows, search_._Question.children
    def change(where, name, new): monkeypatch.setattr(where, name, new)
    if mutant == "cache rows not reordered": change(search_.CachedRows, "pick", lambda self, rows: pick(self, torch.arange(len(rows)) % len(self.mask)))
    if mutant == "values of the parent":
        change(search_._Scorer, "score", lambda self, jobs: [q.nodes[p].value if (p := q.nodes[n].parent) >= 0 else v for (q, n, _), v in zip(jobs, score(self, jobs))])
    if mutant == "finished re-expanded": change(search_._Question, "over", lambda self, node, most: len(self.responses[node]) >= most)
    if mutant == "padding attended": change(rows_, "pad", lambda *a, **k: (lambda ids, mask: (ids, torch.ones_like(mask)))(*pad(*a, **k)))
    if mutant == "kept rows mixed up": change(search_, "merge_rows", lambda pieces: merge(pieces[::-1]))
    if mutant == "first child does not go on":
        def fresh(self, kept, step, seed, most):
            self.numbers = {i: np.random.default_rng([9, i]).random(most) for i in self.numbers}
            return children(self, kept, step, seed, most)
        change(search_._Question, "children", fresh)
    if mutant == "one stream for all children": change(search_._Question, "children", lambda self, *a: [(q, p, children(self, *a)[0][2]) for q, p, _ in children(self, *a)])
    if mutant == "lookahead ignored": change(search_, "_look", lambda writer, made, lookahead: [[]] * len(made))
    if mutant == "beam keeps the worst":
        policy = beam_policy
        def worst(K, b, **_):
            choose = policy(K, b)
            return policies._named("worst", lambda nodes, open, done: choose([SimpleNamespace(value=-n.value) for n in nodes], open, done))
        change(policies, "beam_policy", worst)
    if mutant == "last token not read": change(search_.CachedRows, "read", lambda self, texts, read=search_.CachedRows.read, **o: read(self, [t if len(t) != 1 or not self.mask.shape[1] else [0] for t in texts], **o))
    if mutant == "reads counted twice": change(search_._Writer, "_owners", lambda *a, f=search_._Writer._owners: (f(*a), f(*a))[1])
    if mutant == "positions not counted":
        change(search_.CachedRows, "positions", lambda self, n: torch.zeros_like(self.mask[:, -n:], dtype=torch.long))
    with pytest.raises((AssertionError, IndexError, RuntimeError, KeyError, ValueError)):
        check_search(prompts=PROMPTS[:2])
        check_search(prompts=PROMPTS[:1], look=2)
        check_costs()


def test_reported_functions_get_copies_of_what_the_engine_works_with():
    "A verifier and a policy that spoil every list that they are given change nothing."
    def honest(prompt, response): return len(set(response))/20
    def spoiling(prompt, response):
        value = honest(prompt, response)
        prompt.append(9), response.clear()
        return value
    beam = beam_policy(4, 2)
    def spoiling_policy(nodes, open, done):
        kept = beam(nodes, open, done)
        for given in (nodes, open, done): given.clear()
        return kept
    def found(verifier, policy): return [r.plain() for r in tree_search(tiny("llama"), verifier, PROMPTS[:2], 4, policy, block=2, max_new_tokens=8)]
    plain = found(honest, beam)
    assert found(spoiling, spoiling_policy) == plain and [r["prompt_ids"] for r in plain] == PROMPTS[:2]


def test_search_bad_input():
    model, judge = tiny("llama"), Judge("llama")
    def refused(words, K, b=None, error=ValueError, verifier=judge, method="step_beam", prompts=PROMPTS[:2], **options):
        options = dict(block=3, max_new_tokens=9, K=K) | ({} if b is None else dict(b=b)) | options
        with pytest.raises(error, match=words): getattr(policies, method)(model, verifier, prompts, **options)
    refused("b must divide K", 8, 3)
    refused("b must divide K", 2, 4)
    refused("b must divide K", 4, 0, method="dvts")
    refused("has no tokenizer", 4, 2, block=None)
    refused("question 1: .* do not fit into the context", 4, 2, prompts=[[1], [2] * 125])
    short = Judge("llama")
    short.config = SimpleNamespace(max_position_embeddings=10)
    refused("question 0: .* context of the verifier, 10 tokens", 4, 2, verifier=short)
    with pytest.raises(ValueError, match="search with `answer`"): step_beam(model, None, PROMPTS[:1], K=1, b=1, block=3, max_new_tokens=3)[0].answer
    refused("vocabulary of 30 tokens", 4, 2, verifier=lm.tiny_lm("llama", vocab=30).model)
    refused("^verifier = 'best': it must be a Module or a function or None", 4, 2, verifier="best")
    refused("question 0, step 0: the verifier gave nan", 4, 2, error=ScoreError, verifier=lambda p, r: math.nan)
    refused("question 0, step 0: the verifier gave inf", 4, error=ScoreError, verifier=lambda p, r: math.inf, method="rebase")
    refused("temperature = -1.0: it must be positive", 4, softmax_temperature=-1., method="rebase")
    for name, bad in dict(max_steps=0, step_tokens=0, max_new_tokens=0, lookahead=-1, batch_size=0, seed=-1, temperature=-1).items(): refused(f"{name} = {bad}", 4, 2, **{name: bad})
    refused("streams: 1 for 2", 4, 2, streams=[0])
    refused("streams must lie in", 4, 2, streams=[0, -1])
    refused("the list is empty", 4, 2, prompts=[])
    refused("outside the vocabulary", 4, 2, prompts=[[99]])
    class Forgetful(Judge):
        def forward(self, past_key_values=None, use_cache=None, **inputs): return super().forward(**inputs)
    refused("did not use the cache", 4, 2, verifier=Forgetful("llama"))
    class Unplaced(Judge):
        def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None): return super().forward(input_ids=input_ids, attention_mask=attention_mask)
    refused("takes no position_ids", 4, 2, verifier=Unplaced("llama"))
    same_search(*(step_beam(model, v, PROMPTS, K=4, b=2, block=3, max_new_tokens=9, recompute=True) for v in (judge, Unplaced("llama"))))
    for bad, words in (((["a"], [math.nan]), "is nan"), ((["a"], [math.inf]), "is inf")):
        with pytest.raises(ScoreError, match=words): best_of_n(*bad)
    with pytest.raises(ValueError, match="1 answers need as many scores"): best_of_n(["a"], [.1, .2])
    with pytest.raises(ValueError, match="one of sum, mean, max"): weighted_vote(["a"], [1], "product")
    with pytest.raises(ValueError, match="at least one value"): sample_score([])


def test_search_leaves_the_verifier_as_it_was():
    judge = Judge("llama")
    for training in (True, False):
        judge.train(training)
        step_beam(tiny("llama"), judge, PROMPTS[:1], K=2, b=1, block=3, max_new_tokens=3)
        assert judge.training is training and judge.body.training is training
    tiny("llama", 5).model.train(False)


def test_search_records_depend_on_end_tokens_and_on_what_has_a_name(tmp_path):
    model, runs, options = tiny("llama"), core.Runs("s", tmp_path), dict(block=2, max_steps=4, max_new_tokens=8)
    first = step_beam(model, None, PROMPTS, K=4, b=2, runs=runs, **options)
    more = lm.LM(tiny("llama").model, None, "ends sooner")
    kept = more.model.generation_config.eos_token_id
    more.model.generation_config.eos_token_id = [EOS, 4, 5, 6]
    try:
        again = step_beam(more, None, PROMPTS, K=4, b=2, runs=runs, **options)
        fresh = step_beam(more, None, PROMPTS, K=4, b=2, **options)
    finally: more.model.generation_config.eos_token_id = kept
    assert [r.plain() for r in again] == [r.plain() for r in fresh] != [r.plain() for r in first]
    def judge(sign, prompt, response): return sign * len(response)
    for unnamed in (functools.partial(judge, 1), lambda prompt, response: 0.):
        with pytest.raises(ValueError, match="nothing tells this verifier"): step_beam(model, unnamed, PROMPTS, K=4, b=2, runs=runs, **options)
        step_beam(model, unnamed, PROMPTS[:1], K=4, b=2, runs=runs, config=dict(sign=1), **options)
    with pytest.raises(ValueError, match="nothing tells this policy"):
        tree_search(model, None, PROMPTS, 4, lambda nodes, open, done: [(open[0], 4)], runs=runs, **options)


def test_search_says_what_a_wrong_setting_is():
    with pytest.raises(ValueError, match="whole number"): rebase(tiny("llama"), None, PROMPTS, K=4., block=2, max_new_tokens=8)
    with pytest.raises(ValueError, match="no text to read an answer"): rebase(tiny("llama"), None, PROMPTS, K=4, block=2, max_new_tokens=8, answer=str)
    policy, node = rebase_policy(4, 1e-320), lambda v: Candidate(0, -1, [1], v)
    assert policy([node(1.), node(-1e308), node(.5)], [0, 1, 2], []) == [(0, 4)]
    with pytest.raises(ValueError, match="^problems = '12'.*not one string"): rebase(tiny("llama"), None, "12", K=4, block=2)
