"""The study of verifiers (tvm): arenas, one unit of work, what is read out of records; and that values and outcomes train the same verifier where whole questions stand in a step."""
import numpy as np
import pytest
import torch

from tokenstudy import core, reasoning
from tokenstudy import tvm as ordering, tvm as search, tvm as values


@pytest.fixture(scope="module")
def arena(): return ordering.arithmetic_arena(8, 6, asked=5, samples=4)


def test_tvm_arena_is_what_was_sampled(arena, tmp_path):
    assert len(arena.train) == 8 and [len(t) for t in arena.train.values()] == [6]*8 and [len(s) for s in arena.samples] == [4]*5
    assert not {t[0].prompt_ids[1:].__str__() for t in arena.train.values()} & {s[0].prompt_ids[1:].__str__() for s in arena.samples}
    for some, true, prompt in zip(arena.samples, arena.truth, arena.problems["prompt"]):
        for t, v in zip(some, true):
            assert len(v) == len(t.response_ids) and v[-1] == float(t.correct)
            words = arena.generator.tokenizer.convert_ids_to_tokens(t.response_ids)
            at = reasoning.first_mistake(prompt, words)
            assert at is None or not v[at:].any()
    kept = ordering.arithmetic_arena(2, 3, asked=2, samples=2, folder=tmp_path)
    again = ordering.arithmetic_arena(2, 3, asked=2, samples=2, folder=tmp_path)
    assert kept.samples == again.samples and sorted(p.suffix for p in tmp_path.glob("*.sqlite")) == [".sqlite"]*2


def test_tvm_lessons_are_the_first_paths(arena):
    some = arena.lessons(2)
    assert len(some) == 16 and some[:2] == list(arena.train.values())[0][:2]
    with pytest.raises(ValueError, match="there are 6 samples"): arena.lessons(7)


def test_tvm_unit_of_the_study(arena, tmp_path):
    kw = dict(paths=6, budget=1500, batch_size=8, searches=(("step_beam", 4, 2), ("rebase", 4)))
    found = ordering.judged(arena, "tvm", 1, keep=tmp_path/"v", **kw)
    assert core.plain(found) == core.plain(ordering.judged(arena, "tvm", 1, **kw) | dict(seconds=found["seconds"]))
    assert set(found["curves"]) == {"best-of-N last", "best-of-N min", "weighted vote (sum) last"}
    assert list(found["curves"]["best-of-N last"]) == ["1", "2", "4"]
    right = [[t.correct for t in some] for some in arena.samples]
    assert found["curves"]["best-of-N last"]["1"] == pytest.approx(np.mean(right, 1), abs=1e-3)
    assert set(found["searches"]) == {"step_beam 4 2", "rebase 4"} and all(len(s["right"]) == 5 and s["tokens"] > 0 for s in found["searches"].values())
    again = values.TokenValueModel.from_pretrained(tmp_path/"v")
    for a, b in zip(values.score_samples(again, arena.samples), arena.samples):
        for v, t in zip(a, b): assert v == pytest.approx(values.score_paths(again, [t])[0], abs=1e-5)
    best = found["curves"]["best-of-N last"]["4"]
    by_hand = [some[int(np.argmax([v[-1] for v in vs]))].correct for some, vs in zip(arena.samples, values.score_samples(again, arena.samples))]
    assert best == [float(x) for x in by_hand]


def test_tvm_values_and_outcomes_train_the_same_verifier_on_whole_questions(arena):
    "The theorem at work: a step that holds all paths of its questions has the same gradient; scattered paths do not."
    def trained(kind, composition):
        data = values.value_data(arena.lessons(6), kind, arena.steps, {2})
        return torch.cat([p.flatten() for p in values.train_verifier(arena.generator, data, kind, epochs=2, batch_size=6, composition=composition, lm_weight=0.).model.parameters()])
    same, other = (torch.dist(trained("tvm", c), trained("ovm", c)).item() for c in values.COMPOSITIONS)
    assert same < 1e-2*other


def test_tvm_records_are_read_by_seed_and_setting():
    def unit(kind, seed, right): return dict(config=dict(kind=kind, seed=seed), result=dict(searches={"s": dict(right=right)}, curves={"c": {"4": [.5, 1.]}}))
    records = [unit("tvm", 1, [0, 1]), unit("tvm", 0, [1, 1]), unit("ovm", 0, [0, 0])]
    assert ordering.accuracies(records, ("searches", "s"), kind="tvm").tolist() == [[1, 1], [0, 1]]
    assert ordering.accuracies(records, ("curves", "c", 4), kind="ovm").tolist() == [[.5, 1.]]
    assert ordering.accuracies(records, ("curves", "c", 8), kind="ovm") is None and ordering.accuracies(records, ("searches", "t")) is None


def test_tvm_text_arena_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(core.MissingModelError, match="needs about 100000 GB"): ordering.text_arena("mistralai/Mistral-7B-v0.1", gigabytes=100_000)
    with pytest.raises(core.MissingModelError, match="no gsm8k"): ordering.text_arena(source=tmp_path)
