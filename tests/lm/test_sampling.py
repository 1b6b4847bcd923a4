"Probabilities against transformers' chain, sampling and log-probabilities against a naive loop, and mutants of each."
import functools
import shutil
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tokenstudy import lm
from tokenstudy.lm import queue as queue_, sampling as sampling_

FAMILIES = ("llama", "qwen", "gpt2", "opt")
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12]]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def theirs(logits, temperature, top_k, top_p):
    chain = [TemperatureLogitsWarper(float(temperature))] + ([TopKLogitsWarper(top_k)] if top_k else []) + ([TopPLogitsWarper(top_p)] if top_p < 1 else [])
    return LogitsProcessorList(chain)(None, logits).softmax(-1)


def check_warp_function(warp):
    "Equal to transformers' chain, on random logits (float64, so that no token lies within rounding of the edge) and on the edge itself."
    generator = torch.Generator().manual_seed(0)
    for temperature in (.3, 1, 1.7):
        for top_k in (0, 1, 5, 50):
            for top_p in (1.0, .95, .5, .01):
                logits = 3 * torch.randn(20, 30, generator=generator, dtype=torch.float64)
                assert (warp(logits, temperature, top_k=top_k, top_p=top_p) - theirs(logits, temperature, top_k, top_p)).abs().max() < 1e-12
    edge = torch.tensor([.5, .25, .125, .125], dtype=torch.float64).log()
    for top_p, kept in ((.5, 1), (.50001, 2), (.75, 2), (.76, 3), (1.0, 4)): assert int((warp(edge, 1, top_k=0, top_p=top_p) > 0).sum()) == kept


def test_warp_is_transformers(): check_warp_function(lm.warp)


@pytest.mark.parametrize("mutant", ["keeps one too many", "keeps one too few", "top-p before temperature", "top-k off by one", "no renormalisation"])
def test_warp_mutants_are_caught(mutant):
    def warp(logits, temperature, top_k=0, top_p=1.):
        if mutant == "top-p before temperature": return lm.warp(lm.warp(logits, 1, top_p=top_p).log(), temperature, top_k=top_k)
        if mutant == "top-k off by one": return lm.warp(logits, temperature, top_k=top_k + 1 if top_k else 0, top_p=top_p)
        probs = lm.warp(logits, temperature, top_k=top_k)
        if top_p == 1: return probs
        ranked, order = probs.sort(-1, descending=True)
        mass = ranked.cumsum(-1)
        keep = {"keeps one too many": mass - ranked <= top_p, "keeps one too few": mass <= top_p}.get(mutant, mass - ranked < top_p)
        probs = probs * torch.zeros_like(probs).scatter_(-1, order, keep.to(probs.dtype))
        return probs if mutant == "no renormalisation" else probs / probs.sum(-1, keepdim=True)
    with pytest.raises((AssertionError, ValueError)): check_warp_function(warp)


@given(st.lists(st.floats(-60, 60), min_size=1, max_size=12), st.floats(0, 3), st.integers(0, 13), st.floats(1e-6, 1))
@settings(max_examples=200)
def test_warp_always_gives_a_distribution(values, temperature, top_k, top_p):
    probs = lm.warp(torch.tensor(values), temperature, top_k=top_k, top_p=top_p)
    assert abs(float(probs.sum()) - 1) < 1e-5 and float(probs.min()) >= 0 and max(values) - values[int(probs.argmax())] < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_warp_computes_in_float32_at_least(dtype):
    logits = torch.randn(4, 1000).to(dtype)
    assert lm.warp(logits, .9, top_k=50, top_p=.9).dtype == torch.float32
    assert torch.equal(lm.warp(logits, .9), lm.warp(logits.float(), .9))


def test_log_probabilities_do_not_underflow():
    logits = torch.tensor([[0., -3., 1.]])
    assert torch.allclose(lm.warp(logits, log=True), lm.warp(logits).log())
    assert torch.allclose(lm.warp(logits, .01, log=True), torch.tensor([[-100., -400., 0.]])) and float(lm.warp(logits, .01)[0, 1]) == 0
    assert lm.warp(logits, .01, top_k=1, log=True).tolist() == [[-torch.inf, -torch.inf, 0]]


def test_greedy_is_a_point_mass_on_the_first_largest():
    assert lm.warp(torch.tensor([1., 3., 3.]), 0).tolist() == [0, 1, 0]
    assert lm.warp(torch.tensor([1., 3., -torch.inf]), 1e-8).tolist() == [0, 1, 0]


def test_pick_inverts_the_cumulative_sum_exactly():
    probs = torch.tensor([[0., .25, .5, 0., .25, 0.]], dtype=torch.float64)
    below = np.nextafter(.25, 0), np.nextafter(.75, 0), np.nextafter(1., 0)
    for u, token in ((0., 1), (below[0], 1), (.25, 2), (below[1], 2), (.75, 4), (below[2], 4)):
        assert int(lm.pick(probs, torch.tensor([u], dtype=torch.float64))) == token



def naive_sample(model, prompt, u, ends, **warping):
    ids = list(prompt)
    for x in u:
        probs = lm.warp(model(input_ids=torch.tensor([ids], device=model.device), attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device)).logits[0, -1], **warping).double()
        ids.append(int(torch.searchsorted(probs.cumsum(-1), torch.tensor(x * float(probs.sum()), device=model.device), right=True)))
        if ids[-1] in ends: break
    return ids[len(prompt):]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_is_the_naive_loop(family, device):
    tiny, warping = lm.tiny_lm(family, vocab=16), dict(temperature=1.2, top_p=.97)
    tiny.model.to(device)
    got = lm.sample(tiny, PROMPTS, max_new_tokens=10, seed=5, num_samples=2, **warping)
    with torch.no_grad(): want = [naive_sample(tiny.model, PROMPTS[i // 2], np.random.default_rng([5, i]).random(10), lm.eos_ids(tiny), **warping) for i in range(8)]
    assert [s.response_ids for s in got] == want
    assert [s.finished for s in got] == [w[-1] in lm.eos_ids(tiny) for w in want]
    for size in (1, 3): assert [s.response_ids for s in lm.sample(tiny, PROMPTS, max_new_tokens=10, seed=5, num_samples=2, batch_size=size, **warping)] == want
    read, mask = lm.token_logprobs(tiny, [s.prompt_ids + s.response_ids for s in got], batch_size=3, **warping)
    for s, row in zip(got, read): assert np.allclose(row[len(s.prompt_ids):len(s.prompt_ids) + len(s.response_ids)], s.logprobs, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_probabilities_are_float32(family):
    tiny = lm.tiny_lm(family)
    tiny.model.to(torch.bfloat16)
    read, mask = lm.token_logprobs(tiny, PROMPTS)
    assert read.dtype == torch.float32 and torch.isfinite(read).all() and mask.sum() == sum(len(p) - 1 for p in PROMPTS)


def check_reading(token_logprobs):
    tiny, rows = lm.tiny_lm(), [[3, 1, 4, 1, 5, 9], [2, 6], [7]]
    read, mask = token_logprobs(tiny, rows)
    assert read.shape == mask.shape == (3, 6) and mask.sum(-1).tolist() == [5, 1, 0] and (read[~mask] == 0).all()
    with torch.no_grad():
        for row, ids in zip(read, rows):
            for t in range(1, len(ids)):
                want = tiny.model(input_ids=torch.tensor([ids[:t]]), attention_mask=torch.ones(1, t, dtype=torch.long)).logits[0, -1].log_softmax(-1)[ids[t]]
                assert abs(float(row[t]) - float(want)) < 1e-5


def test_reading_is_the_naive_loop(): check_reading(lm.token_logprobs)


@pytest.mark.parametrize("mutant", ["off by one", "counts padding", "left shift"])
def test_reading_mutants_are_caught(mutant):
    def wrong(tiny, rows):
        read, mask = lm.token_logprobs(tiny, rows)
        if mutant == "counts padding": return read, torch.ones_like(mask)
        if mutant == "left shift": return read.roll(-1, 1), mask.roll(-1, 1)
        ids, real = lm.pad(rows, "right")
        probs = lm.warp(lm.forward(tiny.model, ids, real).logits).detach()
        return torch.where(mask, probs.gather(-1, ids[..., None])[..., 0].log(), 0), mask
    with pytest.raises(AssertionError): check_reading(wrong)


def test_sequence_logits_row_t_is_about_token_t_plus_one():
    tiny, ids = lm.tiny_lm(), [3, 1, 4, 1, 5]
    assert torch.allclose(lm.sequence_logits(tiny, ids)[:-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0], lm.token_logprobs(tiny, [ids])[0][0, 1:], atol=1e-5)


def test_greedy_equals_generate():
    for family in FAMILIES:
        tiny = lm.tiny_lm(family)
        for prompt, ours in zip(PROMPTS, lm.sample(tiny, PROMPTS, max_new_tokens=8, temperature=0)):
            theirs = tiny.model.generate(input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False, max_new_tokens=8, pad_token_id=0)[0, len(prompt):]
            assert ours.response_ids == theirs.tolist()


@pytest.mark.parametrize("wrong, message", [(dict(prompts="a"), "not one string"), (dict(prompts=[]), "list is empty"), (dict(prompts=[[1], []]), "prompt 1 is empty"), (dict(prompts=["x"]), "has no tokenizer"),
                                            (dict(temperature=-1), "temperature"), (dict(temperature=float("nan")), "temperature"), (dict(top_p=0), "top_p"), (dict(top_p=1.1), "top_p"), (dict(top_k=-1), "top_k"),
                                            (dict(top_k=float("inf")), "top_k"), (dict(temperature=None), "temperature = None"),
                                            (dict(prompts=[1, 2, 3]), "prompt 0: expected a string or a list"), (dict(prompts=[[1.5]]), "prompt 0"), (dict(prompts=[[1], [99]]), "prompt 1: token id 99"),
                                            (dict(prompts=[[1] * 200]), "do not fit into the context"), (dict(max_new_tokens=0), "max_new_tokens = 0"), (dict(num_samples=0), "num_samples = 0"), (dict(batch_size=0), "batch_size = 0")])
def test_bad_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message): lm.sample(**(dict(lm=lm.tiny_lm(), prompts=[[1]], max_new_tokens=2) | wrong))


def test_prompts_of_ours():
    rows = lm.prompts()
    assert len(rows) == 50 and {r["kind"] for r in rows} == {"instruction", "story", "code", "fact", "arithmetic"}
    assert len(lm.prompts("code")) == 10
    with pytest.raises(ValueError, match="kind 'poem'"): lm.prompts("poem")




def test_warp_is_a_second_name(): assert lm.warp is lm.next_token_probs


@pytest.mark.parametrize("call", [lambda t: lm.sample(t, [[1]], 3), lambda t: lm.token_logprobs(t, [[1]], 1.), lambda t: lm.rollouts(t, [1], [2], 3),
                                  lambda t: lm.warp(torch.zeros(3), 1., 2)])
def test_options_are_named(call):
    with pytest.raises(TypeError, match="positional"): call(lm.tiny_lm())


def test_a_prefill_makes_logits_of_the_last_place_only(monkeypatch):
    tiny, shapes = lm.tiny_lm(), []
    lm.sample(tiny, PROMPTS, max_new_tokens=2)                       # the probe is over
    forward = type(tiny.model).forward
    def seen(self, *args, **options):
        out = forward(self, *args, **options)
        shapes.append((options["input_ids"].shape, out.logits.shape))
        return out
    monkeypatch.setattr(type(tiny.model), "forward", functools.wraps(forward)(seen))
    lm.sample(tiny, PROMPTS, max_new_tokens=3, num_samples=5)
    assert shapes[0][0] == (4, 6) and all(logits[1] == 1 for _, logits in shapes)     # an equal prompt is read once


def test_a_stream_gives_each_row_once_with_its_own_key():
    tiny, keys = lm.tiny_lm(), [[5, i] for i in range(8)]
    want = lm.sample(tiny, PROMPTS, max_new_tokens=10, seed=5, num_samples=2)
    got = list(lm.sample_stream(tiny, PROMPTS, max_new_tokens=10, num_samples=2, keys=keys[::-1], batch_size=3))
    assert sorted(i for i, _ in got) == list(range(8))
    turned = dict(lm.sample_stream(tiny, [p for p in PROMPTS[::-1] for _ in range(2)], max_new_tokens=10, keys=keys[::-1], batch_size=3))
    assert [turned[7 - i].response_ids for i in range(8)] == [s.response_ids for s in want]
    with pytest.raises(ValueError, match="keys: 1 for 4 rows"): lm.sample_stream(tiny, PROMPTS, keys=[[0]])


def test_models_without_slots_are_sampled_batch_by_batch(monkeypatch):
    tiny = lm.tiny_lm("gpt2", vocab=16)
    want = lm.sample(tiny, PROMPTS, max_new_tokens=8, seed=2)
    monkeypatch.setattr(queue_, "_in_slots", lambda *_: False)
    assert [s.response_ids for s in lm.sample(tiny, PROMPTS, max_new_tokens=8, seed=2, batch_size=3)] == [s.response_ids for s in want]
    with pytest.warns(UserWarning, match="sampled batch by batch"): lm.sample(tiny, PROMPTS, max_new_tokens=2, compiled=True)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_step_draws_the_same_tokens(family):
    tiny, options = lm.tiny_lm(family, vocab=16), dict(max_new_tokens=6, seed=5, num_samples=2, temperature=1.2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot be prepared")
        made = lm.sample(tiny, PROMPTS, compiled=True, **options)
    for a, b in zip(lm.sample(tiny, PROMPTS, **options), made, strict=True):
        assert a.response_ids == b.response_ids and np.allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_a_step_that_cannot_be_compiled_is_said(monkeypatch):
    def broken(*_): raise RuntimeError("no compiler")
    tiny = lm.tiny_lm(vocab=16)
    want = lm.sample(tiny, PROMPTS, max_new_tokens=6)
    monkeypatch.setattr(torch, "compile", lambda f, **options: broken if f.__name__ == "_reading" else f)
    with pytest.warns(UserWarning, match="cannot be prepared .*no compiler"): got = lm.sample(tiny, PROMPTS, max_new_tokens=6, compiled=True)
    assert [s.response_ids for s in got] == [s.response_ids for s in want]
