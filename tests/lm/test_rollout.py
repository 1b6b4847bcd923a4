"Rollouts from every position: against a loop without cache or batch, their distribution on a grid, shared work counted, streams, ends, errors, ray, and mutants."
import copy
import functools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from tokenstudy import core, lm
from tokenstudy.lm import branches as branches_
from tokenstudy.lm import caches, models
from tokenstudy.lm import rollout as rollout_

FAMILIES = ("llama", "qwen", "gpt2", "opt")
TEXTS = [([3, 1, 4], [1, 5, 9, 2, 6, 5]), ([2, 7], [5, 3, 8]), ([6], [])]
WARP = dict(temperature=1.1, top_p=.9)


def numbers(count, seed, stream, position, rollout):
    "The documented stream, written out."
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, rollout, position, 0])).random(count)


@functools.cache
def tiny(family, seed=0): return lm.tiny_lm(family, vocab=12, seed=seed)


def loop(model, ids, u, banned=(), **warp):
    "One continuation by a forward pass over the whole text for each token: ids and log-probabilities."
    return _loop(model, tuple(ids), tuple(u), tuple(banned), tuple(warp.items()))

@functools.cache
@torch.no_grad()
def _loop(model, ids, u, banned, warp):
    ids, warp, out, logprobs = list(ids), dict(warp), [], []
    while len(out) < len(u) and 11 not in out:
        whole = torch.tensor([ids + out])
        probs = lm.warp(model.model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits[0, -1], **warp)
        if not out: probs[list(banned)] = 0
        probs = probs / probs.sum()
        out.append(int(lm.pick(probs[None], torch.tensor([u[len(out)]]))))
        logprobs.append(float(probs[out[-1]].log()))
    return out, logprobs


def check_rollouts(families=FAMILIES, n=4, seed=5, batch_size=9):
    "All positions of three trajectories, in waves that cut through them, with banned tokens and log-probabilities."
    for family in families:
        model, where = tiny(family), [[0, 1, 3, 6], [3, 1, 0], [0]]
        banned = [{3: [9, 2]}, {}, {}]
        got = lm.rollouts_many(model, TEXTS, num_samples=n, positions=where, max_new_tokens=12, seed=seed, batch_size=batch_size, logprobs=True, banned=banned, **WARP)
        for k, ((prompt, response), r) in enumerate(zip(TEXTS, got)):
            assert r.positions == where[k] and r.tokens.shape[:2] == (len(where[k]), n) and r.response_ids == response
            for i, t in enumerate(r.positions):
                for j in range(n):
                    want, logprobs = loop(model, prompt + response[:t], numbers(12, seed, k, t, j), banned[k].get(t, ()), **WARP)
                    assert r.continuation(i, j) == want and r.responses(i)[j] == response[:t] + want
                    assert bool(r.finished[i, j]) == (want[-1] == 11) and (r.tokens[i, j, len(want):] == -1).all()
                    assert np.allclose(r.logprobs[i, j, :len(want)], logprobs, atol=1e-3) and not r.logprobs[i, j, len(want):].any()


def check_in_place(n=12):
    "A case where some rows end while others split, so that the dead ones are written over."
    model, (prompt, response) = tiny("gpt2"), ([3, 1, 4], [1, 5])
    r = lm.rollouts(model, prompt, response, num_samples=n, positions=[0, 1], max_new_tokens=12, temperature=.3)
    for i, t in enumerate(r.positions):
        for j in range(n): assert r.continuation(i, j) == loop(model, prompt + response[:t], numbers(12, 0, 0, t, j), temperature=.3)[0]


def test_rollouts_write_over_rows_that_ended(monkeypatch):
    moved, move = [], caches.SlotStore.move
    monkeypatch.setattr(caches.SlotStore, "move", lambda self, target, source: (moved.append(len(target)), move(self, target, source)))
    check_in_place()
    assert moved


@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts_are_those_of_a_plain_loop(family): check_rollouts([family])


def test_rollouts_do_not_depend_on_the_batch():
    model, (prompt, response) = tiny("llama"), TEXTS[0]
    whole = lm.rollouts(model, prompt, response, num_samples=12, max_new_tokens=10, logprobs=True)
    for rows in (1, 5, 17):
        other = lm.rollouts(model, prompt, response, num_samples=12, max_new_tokens=10, logprobs=True, batch_size=rows)
        assert (whole.tokens == other.tokens).all() and np.allclose(whole.logprobs, other.logprobs, atol=1e-4)
    backwards = lm.rollouts(model, prompt, response, num_samples=range(3, 5), positions=[4, 2], max_new_tokens=10)
    for i, t in enumerate([4, 2]):
        for j in range(2): assert backwards.continuation(i, j) == whole.continuation(t - 1, 3 + j)
    assert (lm.rollouts(model, prompt, response, num_samples=12, max_new_tokens=10, seed=1).tokens[..., 0] != whole.tokens[..., 0]).any()
    assert (lm.rollouts(model, prompt, response, num_samples=12, max_new_tokens=10, stream=1).tokens[..., 0] != whole.tokens[..., 0]).any()


def test_rollouts_with_a_trunk_read_nothing_twice():
    model, (prompt, response) = tiny("llama"), TEXTS[0]
    trunk = lm.Trunk(model, prompt, response)
    first, second = (lm.rollouts_many(model, [one], num_samples=3, max_new_tokens=5)[0] for one in (trunk, (prompt, response)))
    assert (first.tokens == second.tokens).all() and (first.prefix_tokens, second.prefix_tokens) == (0, len(trunk)) == (0, 9)
    again = lm.rollouts_many(model, [trunk], num_samples=3, max_new_tokens=5)[0]
    assert (again.tokens == first.tokens).all()


def grid_shares(model, prompt, response, t, side, monkeypatch):
    "Shares of the two-token continuations from position t when the two numbers run over a grid."
    middles = (np.arange(side) + .5) / side
    monkeypatch.setattr(rollout_, "rollout_numbers", lambda count, seed, stream, position, j: np.array([middles[j // side], middles[j % side]])[:count])
    r = lm.rollouts(model, prompt, response, num_samples=side * side, positions=[t], max_new_tokens=2)
    return {key: count / side**2 for key, count in zip(*np.unique([str(r.continuation(0, j)) for j in range(side**2)], return_counts=True))}


@pytest.mark.parametrize("t", [0, 2])
def test_rollouts_have_the_models_distribution(t, monkeypatch):
    "Every number stands for its cell of the grid: the shares are within the grid's width of the products of conditionals."
    model, (prompt, response), side = tiny("llama"), TEXTS[0], 32
    shares = grid_shares(model, prompt, response, t, side, monkeypatch)
    with torch.no_grad():
        text = prompt + response[:t]
        first = lm.sequence_logits(model, text)[-1].double().softmax(-1)
        for a in range(12):
            second = lm.sequence_logits(model, text + [a])[-1].double().softmax(-1)
            for key, p in ([(str([a]), first[a])] if a == 11 else [(str([a, b]), first[a] * second[b]) for b in range(12)]):
                assert abs(shares.get(key, 0) - float(p)) < 2.5 / side


def test_rollouts_of_finished_prefixes_are_empty():
    model, (prompt, response) = tiny("llama"), TEXTS[0]
    r = lm.rollouts(model, prompt, response + [11], num_samples=3, positions=[5, 7], max_new_tokens=6)
    assert r.lengths[1].tolist() == [0, 0, 0] and r.finished[1].all() and r.continuation(1, 0) == []
    assert r.responses(1)[2] == response + [11]
    only = lm.rollouts(model, prompt, [11], num_samples=2)
    assert only.new_tokens == only.prefix_tokens == only.forwarded == 0 and only.finished.all() and only.tokens.shape == (1, 2, 0)
    ended = lm.rollouts(model, [3, 11], [], num_samples=2, positions=[0], max_new_tokens=3)              # in the prompt it ends nothing
    assert (ended.lengths > 0).all()


def test_rollouts_length_limits():
    model, (prompt, response) = tiny("llama"), TEXTS[0]
    free, total = lm.rollouts(model, prompt, response, num_samples=6, max_new_tokens=4), lm.rollouts(model, prompt, response, num_samples=6, max_total=5)
    assert free.lengths.max() == 4
    for i, t in enumerate(total.positions):
        assert (total.lengths[i] <= max(5 - t, 0)).all()
        for j in range(6): assert total.continuation(i, j) == free.continuation(i, j)[:max(5 - t, 0)]
    assert not total.finished[4:].any()


def test_rollouts_share_what_is_the_same():
    model, prompt = tiny("llama"), [3, 1, 4]
    greedy = lm.sample(model, [prompt], max_new_tokens=8, temperature=0)[0].response_ids
    r = lm.rollouts(model, prompt, greedy, num_samples=5, max_total=8, temperature=0)
    assert r.forwarded == 0 and all(r.responses(i)[j] == greedy for i in range(len(greedy)) for j in range(5))
    other = [(greedy[0] + 1) % 11, *greedy[1:3]]
    r = lm.rollouts(model, prompt, other, num_samples=5, max_new_tokens=6, temperature=0)
    texts = {tuple(r.responses(i)[j][:stop]) for i in range(3) for j in range(5) for stop in range(r.positions[i] + 1, len(r.responses(i)[j]))}
    assert r.forwarded == len({text for text in texts if text != tuple(other[:len(text)])})
    busy = lm.rollouts(model, prompt, other, num_samples=40, max_new_tokens=6)
    texts = {tuple(one[:stop]) for i, t in enumerate(busy.positions) for one in busy.responses(i) for stop in range(t + 1, len(one))}
    assert busy.forwarded == len({text for text in texts if text != tuple(other[:len(text)])}) < busy.new_tokens


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts_on_a_gpu_are_those_on_the_cpu(family):
    here, there = tiny(family), tiny(family)._replace(model=lm.tiny_lm(family, vocab=12).model.cuda())
    a, b = (lm.rollouts_many(model, TEXTS[:2], num_samples=9, max_new_tokens=10, batch_size=40, banned=[{1: [4]}, {}]) for model in (here, there))
    for x, y in zip(a, b): assert (x.tokens != y.tokens).mean() < .05        # rounding may turn a draw


@given(st.lists(st.integers(0, 10), min_size=1, max_size=4), st.lists(st.integers(0, 10), max_size=7), st.integers(1, 6), st.integers(1, 9),
       st.sampled_from([.3, 1, 2.5]), st.integers(0, 2**64 - 1), st.sampled_from(FAMILIES))
@settings(max_examples=12)
def test_rollouts_of_any_trajectory(prompt, response, n, most, temperature, seed, family):
    model, rng = tiny(family, 1), np.random.default_rng(seed % 1000)
    r = lm.rollouts(model, prompt, response, num_samples=n, positions=range(len(response) + 1), max_new_tokens=most, seed=seed, temperature=temperature)
    for i in rng.integers(len(response) + 1, size=2):
        j = int(rng.integers(n))
        assert r.continuation(i, j) == loop(model, prompt + response[:i], numbers(most, seed, 0, i, j), temperature=temperature)[0]


MUTANTS = ["prefix shifted by one", "the prefix's last token unseen", "stale cache", "rows not reordered", "rows not moved", "wrong position",
           "EOS dropped", "one stream for all positions", "one stream for all rollouts", "a slot too many", "banned token allowed"]

@pytest.mark.parametrize("mutant", MUTANTS)
def test_rollout_mutants_are_caught(mutant, monkeypatch):
    model, branches, store = tiny("llama").model, branches_.Branches, caches.SlotStore
    draw, wave, index, write, select = rollout_.rollout_numbers, rollout_._wave, branches.index, store.write, store.select
    if mutant == "prefix shifted by one":
        monkeypatch.setattr(rollout_, "_wave", lambda model, trunks, owners, prefixes, *rest: wave(model, trunks, owners, np.maximum(prefixes - 1, 0), *rest))
    if mutant == "the prefix's last token unseen":
        def shifted(self):
            index(self)
            self.seen = self.seen & (torch.arange(self.seen.shape[1]) < self.prefixes[:, None] - 1)
        monkeypatch.setattr(branches, "index", shifted)
    if mutant == "stale cache":
        def stale(self, layer, keys, values):
            if self.filled == 2: keys, values = (torch.zeros_like(x) for x in (keys, values))
            return write(self, layer, keys, values)
        monkeypatch.setattr(store, "write", stale)
    if mutant == "rows not reordered":
        monkeypatch.setattr(store, "select", lambda self, rows, slots=None: select(self, torch.arange(len(rows)) % self.keys[0].shape[1], slots))
    if mutant == "rows not moved": monkeypatch.setattr(store, "move", lambda self, target, source: None)
    if mutant == "wrong position":
        forward = type(model).forward
        def late(self, *args, branches=None, position_ids=None, **options):
            if branches is None: return forward(self, *args, position_ids=position_ids, **options)
            return forward(self, *args, position_ids=position_ids + 1, branches=branches, **options)
        monkeypatch.setattr(type(model), "forward", late)
    if mutant == "EOS dropped": monkeypatch.setattr(rollout_, "eos_ids", lambda model: set())
    if mutant == "one stream for all positions": monkeypatch.setattr(rollout_, "rollout_numbers", lambda count, seed, stream, t, j: draw(count, seed, stream, 0, j))
    if mutant == "one stream for all rollouts": monkeypatch.setattr(rollout_, "rollout_numbers", lambda count, seed, stream, t, j: draw(count, seed, stream, t, 0))
    if mutant == "a slot too many":
        def leaky(self, layer, keys, values):
            seen = write(self, layer, keys, values)
            return tuple(torch.cat([x, x[:, :, :1]], 2) for x in seen)
        monkeypatch.setattr(store, "write", leaky)
    if mutant == "banned token allowed": monkeypatch.setattr(rollout_, "_wave", lambda *args: wave(*args[:-1], {}))
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        check_in_place()
        check_rollouts(["llama"], n=4, batch_size=None)


def test_rollouts_leave_the_model_as_it_was():
    model = tiny("llama")
    before = model.model.config._attn_implementation
    other = branches_.branching(model)
    assert (model.model.config._attn_implementation, other.model.config._attn_implementation) == (before, "tokenstudy_branches")
    assert all(a is b for a, b in zip(model.model.parameters(), other.model.parameters(), strict=True))
    assert all(a is b for a, b in zip(model.model.buffers(), other.model.buffers(), strict=True))
    assert lm.sample(model, [[1, 2]], max_new_tokens=3, seed=1)[0].response_ids


def test_rollouts_and_samples_in_threads():
    "Rollouts have a model object of their own, so that others can use the model meanwhile."
    from concurrent.futures import ThreadPoolExecutor
    model, (prompt, response) = tiny("qwen"), TEXTS[0]
    def rolled(seed): return lm.rollouts(model, prompt, response, num_samples=9, max_new_tokens=10, seed=seed).tokens.tolist()
    def sampled(seed): return [s.response_ids for s in lm.sample(model, [prompt] * 4, max_new_tokens=10, seed=seed)]
    alone = [(rolled(seed), sampled(seed)) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        both = [(pool.submit(rolled, seed), pool.submit(sampled, seed)) for seed in range(6)]
        assert [(a.result(), b.result()) for a, b in both] == alone


def test_rollouts_need_the_interface_for_attention(monkeypatch):
    model = lm.tiny_lm("llama", vocab=12)
    monkeypatch.setattr(type(model.model), "_can_set_attn_implementation", classmethod(lambda cls: False))
    with pytest.raises(ValueError, match="does not use transformers' interface"): lm.rollouts(model, [1], [2], num_samples=2)


def test_reported_a_position_without_banned_tokens_is_as_if_not_named():
    model, (prompt, response) = tiny("llama"), TEXTS[0]
    def drawn(banned): return [lm.rollouts(model, prompt, response, num_samples=2, positions=[1, 2], max_new_tokens=4, banned=banned).continuation(i, j) for i in range(2) for j in range(2)]
    assert drawn({1: []}) == drawn({}) == drawn(None) and drawn({1: [], 2: [3]}) == drawn({2: [3]})


def test_reported_rollouts_bad_input():
    model, (prompt, response) = tiny("llama"), TEXTS[0]
    def refused(words, *args, **options):
        with pytest.raises(ValueError, match=words): lm.rollouts(model, *args, **options)
    refused("ends the sequence, but 1 tokens follow", prompt, [1, 11, 2])
    refused("positions must be different numbers from 0 to 6", prompt, response, positions=[7])
    refused("positions must be", prompt, response, positions=[2, 2])
    refused("positions must be", prompt, [])
    refused("num_samples = range", prompt, response, num_samples=0)
    refused("max_new_tokens = 0", prompt, response, max_new_tokens=0)
    refused("max_total = 0", prompt, response, max_total=0)
    refused("batch_size = -1", prompt, response, batch_size=-1)
    refused("do not fit into the context", prompt, response, max_new_tokens=1000)
    refused("all probability", prompt, response, positions=[1], banned={1: range(12)})
    for wrong in ({1: [-1]}, {1: [12]}, {1: [2, 1.5]}, {1: 3}, {1: None}, {len(response) + 1: [1]}, {-1: [1]}, {"1": [1]}): refused("banned.*(token ids from 0 to|outside the vocabulary|must be|but positions are)", prompt, response, banned=wrong)
    refused("all probability", prompt, response, positions=[1], temperature=0, banned={1: [lm.rollouts(model, prompt, response, num_samples=1, positions=[1], max_new_tokens=1, temperature=0).continuation(0, 0)[0]]})
    refused("engine 'spark'", prompt, response, engine="spark")
    refused("temperature = -1", prompt, response, temperature=-1)
    refused("seed = -1", prompt, response, seed=-1)
    refused("outside the vocabulary", prompt, [99])
    with pytest.raises(ValueError, match="the list is empty"): lm.rollouts_many(model, [])
    with pytest.raises(ValueError, match="streams: 1 entries for 2"): lm.rollouts_many(model, [(prompt, response)] * 2, streams=[1])


def test_rollouts_by_ray_are_the_same():
    ray = pytest.importorskip("ray")
    try: ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    except Exception as e: pytest.skip(f"ray does not start here: {str(e)[:200]}")
    try:
        for texts in (TEXTS[:1], TEXTS[:2]):
            local, far = (lm.rollouts_many(tiny("llama"), texts, num_samples=3, max_new_tokens=6, seed=2, logprobs=True, engine=engine) for engine in ("local", "ray"))
            for a, b in zip(local, far, strict=True):
                assert a.positions == b.positions and (a.tokens == b.tokens).all() and (a.lengths == b.lengths).all() and (a.finished == b.finished).all()
                assert np.allclose(a.logprobs, b.logprobs, atol=1e-4)
    finally: ray.shutdown()


class HereRay:
    "What of ray the engine uses, in this process: an object store that copies, and tasks that run at once."
    def __init__(self, start=None): self.start, self.running = start, False
    def is_initialized(self): return self.running
    def init(self, **_):
        if self.start is not None: raise self.start
        self.running = True
    def cluster_resources(self): return {"CPU": 3.}
    def put(self, thing): return copy.deepcopy(thing)
    def get(self, thing): return thing
    def remote(self, **_): return lambda task: SimpleNamespace(remote=task)


def test_reported_shards_of_ray_are_the_same_where_ray_does_not_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", HereRay())
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None) # a worker's own
    for texts in (TEXTS[:1], TEXTS[:2]):
        local, far = (lm.rollouts_many(tiny("llama"), texts, num_samples=3, max_new_tokens=6, seed=2, engine=engine) for engine in ("local", "ray"))
        for a, b in zip(local, far, strict=True): assert a.positions == b.positions and (a.tokens == b.tokens).all() and (a.lengths == b.lengths).all()


def test_ray_asks_only_for_cards_that_are_there():
    def cluster(**there): return SimpleNamespace(cluster_resources=lambda: there)
    def on(kind): return SimpleNamespace(name="m", model=SimpleNamespace(device=torch.device(kind)))
    assert rollout_._workers(cluster(CPU=8.), on("cpu")) == (False, 8) and rollout_._workers(cluster(CPU=8., GPU=2.), on("cuda")) == (True, 2)
    with pytest.warns(UserWarning, match="the ray cluster has no GPUs"): assert rollout_._workers(cluster(CPU=8.), on("cuda")) == (False, 8)
    with pytest.raises(core.TokenStudyError, match="has no CPUs"): rollout_._workers(cluster(GPU=1.), on("cuda"))


@pytest.mark.parametrize("fault", (Exception("The current node timed out during startup.\nMore."), ConnectionError()))
def test_reported_ray_that_does_not_start_is_said(monkeypatch, fault):
    monkeypatch.setitem(sys.modules, "ray", HereRay(fault))
    with pytest.raises(core.TokenStudyError, match="ray does not start here .*engine='local'"): lm.rollouts_many(tiny("llama"), TEXTS[:1], num_samples=1, max_new_tokens=2, engine="ray")


@pytest.mark.skipif(models._wheel_file() is None and not models._cached_folder().is_dir(), reason="SmolLM2 is not installed")
def test_rollouts_of_smollm2():
    model = lm.load_lm("smollm2", device="cpu", dtype="float32")
    prompt, response = lm.encode(model, ["The sea is", " salty because of"])
    r = lm.rollouts(model, prompt, response, num_samples=2, positions=[0, 2], max_new_tokens=3, temperature=.8, top_p=.9)
    for i, t in enumerate(r.positions):
        for j in range(2): assert r.continuation(i, j) == loop(model, prompt + response[:t], numbers(3, 0, 0, t, j), temperature=.8, top_p=.9)[0]
