"Verifiers: padding, caches, later tokens and dropout do not change values; quality of the truth and of nonsense."
import json

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from tokenstudy import core, lm, reasoning
from tokenstudy.tvm.labels import ValueDataError, label_samples
from tokenstudy.tvm.verifier import TokenValueModel, area_under_curve, calibration, score_responses, value_quality
from tokenstudy.tvm.training import train_verifier
from tokenstudy.tvm.setups import delimiter_ids
from tvm.toys import NAN, made, same, samples


@pytest.fixture(scope="module")
def toy(): return lm.tiny_lm("llama", vocab=8)


@pytest.fixture(scope="module")
def paths(): return samples()


@pytest.mark.parametrize("family", ["llama", "qwen", "gpt2", "opt"])
def test_values_do_not_depend_on_padding_batch_cache_or_later_tokens(family):
    model = TokenValueModel.from_causal_lm(lm.tiny_lm(family, vocab=12), seed=1)
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
    one = [score_responses(model, [r])[0] for r in rows]
    assert np.allclose(one[0], whole[0, 2:], atol=1e-5)
    assert all(np.allclose(a, b, atol=1e-5) and len(a) == len(r[1]) for a, b, r in zip(one, score_responses(model, rows, 2), rows))
    with pytest.raises(ValueDataError, match="sample 0 has no prompt"): score_responses(model, [([], [1])])


def test_values_scores_do_not_depend_on_dropout(paths):
    model = TokenValueModel.from_causal_lm(lm.tiny_lm("gpt2", vocab=8)).train()
    assert same(score_responses(model, paths[:4]), score_responses(model.train(False), paths[:4]))
    assert all(m.training for m in model.train().modules()) and score_responses(model, paths[:1]) and model.training


@given(st.lists(st.tuples(st.sampled_from([0, .1, .5, .9]), st.booleans()), min_size=2, max_size=12))
def test_values_area_under_curve_counts_pairs(rows):
    v, y = zip(*rows)
    pairs = [(a > b) + .5*(a == b) for a, ya in rows if ya for b, yb in rows if not yb]
    told = area_under_curve(v, y)
    assert told is None if not pairs else told == pytest.approx(np.mean(pairs))


def test_values_quality_of_the_truth_and_of_nonsense():
    some = [made("abz", 1), made("acz", 0), made("acdz", 1), made("h", 0, problem="q")]
    truth = [x for g in (some[:3], some[3:]) for x in label_samples(g, "tvm")]
    best = value_quality(truth, some)
    assert best["correlation"] == pytest.approx(1) and best["ece"] == pytest.approx(0, abs=1e-6) and best["rmse"] == 0 and best["tokens"] == 11
    flat = value_quality([np.full(len(t.response_ids), .5) for t in some], some)
    assert flat["correlation"] is None and flat["auc"] == .5 and flat["brier"] == .25
    a, b, n = calibration([.05, .05, .95, 1.], [0, .2, 1, 1])
    assert np.allclose(a, [.05, .975]) and np.allclose(b, [.1, 1]) and n.tolist() == [2, 2]
    with pytest.raises(ValueDataError, match="no trajectories"): value_quality([], [])
    assert json.dumps(core.plain(best))


def test_values_quality_refuses_what_does_not_fit(paths):
    two = paths[:2]
    with pytest.raises(ValueDataError, match="sample 0"): value_quality([[.5]*(len(t.response_ids) + 1) for t in two], two)
    with pytest.raises(ValueError, match="finite numbers"): value_quality([[NAN]*len(t.response_ids) for t in two], two)
    with pytest.raises(ValueError, match="empty"): delimiter_ids(reasoning.arithmetic_tokenizer(), "")


def test_values_refuse_what_is_no_verifier(toy, paths, tmp_path):
    toy.model.save_pretrained(tmp_path/"lm")
    with pytest.raises(ValueError, match="type llama, not a verifier"): TokenValueModel.from_pretrained(tmp_path/"lm")
    with pytest.raises(ValueError, match="type str"): TokenValueModel.from_causal_lm("lm")
    small = TokenValueModel.from_causal_lm(lm.tiny_lm("llama", vocab=4))
    with pytest.raises(ValueDataError, match="vocabulary of 4"): score_responses(small, paths)
    with pytest.raises(ValueDataError, match="vocabulary of 4"): train_verifier(small, paths)
