"The study of verifiers: one unit of work, what is read out of records; and that values and outcomes train the same verifier where whole questions stand in a step."
import numpy as np
import pytest
import torch

from tokenstudy import core
from tokenstudy.tvm.labels import value_data
from tokenstudy.tvm.verifier import TokenValueModel, score_responses, score_samples
from tokenstudy.tvm.training import COMPOSITIONS, train_verifier
from tokenstudy.tvm.setups import arithmetic_setup
from tokenstudy.tvm.ordering import accuracies, judged
from tvm.toys import same


@pytest.fixture(scope="module")
def setup(): return arithmetic_setup(8, 6, 5, num_test_samples=4)


def test_tvm_unit_of_the_study(setup, tmp_path):
    kw = dict(num_samples=6, budget=1500, batch_size=8, searches=(("step_beam", 4, 2), ("rebase", 4)))
    found = judged(setup, "tvm", 1, keep=tmp_path/"v", **kw)
    assert core.plain(found) == core.plain(judged(setup, "tvm", 1, **kw) | dict(seconds=found["seconds"]))
    assert set(found["curves"]) == {"best-of-N last", "best-of-N min", "weighted vote (sum) last"}
    assert list(found["curves"]["best-of-N last"]) == ["1", "2", "4"]
    right = [[t.correct for t in some] for some in setup.samples]
    assert found["curves"]["best-of-N last"]["1"] == pytest.approx(np.mean(right, 1), abs=1e-3)
    assert set(found["searches"]) == {"step_beam 4 2", "rebase 4"} and all(len(s["right"]) == 5 and s["tokens"] > 0 for s in found["searches"].values())
    again = TokenValueModel.from_pretrained(tmp_path/"v")
    for a, b in zip(score_samples(again, setup.samples), setup.samples):
        for v, t in zip(a, b): assert v == pytest.approx(score_responses(again, [t])[0], abs=1e-5)
    best = found["curves"]["best-of-N last"]["4"]
    by_hand = [some[int(np.argmax([v[-1] for v in vs]))].correct for some, vs in zip(setup.samples, score_samples(again, setup.samples))]
    assert best == [float(x) for x in by_hand]


def test_tvm_values_and_outcomes_train_the_same_verifier_on_whole_questions(setup):
    "The theorem at work: a step that holds all paths of its questions has the same gradient; scattered paths do not."
    def trained(kind, composition):
        data = value_data(setup.lessons(6), kind, setup.delimiter, eos_ids={2})
        return torch.cat([p.flatten() for p in train_verifier(setup.generator, data, kind, epochs=2, batch_size=6, composition=composition, lm_weight=0.).model.parameters()])
    same, other = (torch.dist(trained("tvm", c), trained("ovm", c)).item() for c in COMPOSITIONS)
    assert same < 1e-2*other


def test_tvm_records_are_read_by_seed_and_setting():
    def unit(kind, seed, right): return dict(config=dict(kind=kind, seed=seed), result=dict(searches={"s": dict(right=right)}, curves={"c": {"4": [.5, 1.]}}))
    records = [unit("tvm", 1, [0, 1]), unit("tvm", 0, [1, 1]), unit("ovm", 0, [0, 0])]
    assert accuracies(records, ("searches", "s"), kind="tvm").tolist() == [[1, 1], [0, 1]]
    assert accuracies(records, ("curves", "c", 4), kind="ovm").tolist() == [[.5, 1.]]
    assert accuracies(records, ("curves", "c", 8), kind="ovm") is None and accuracies(records, ("searches", "t")) is None
