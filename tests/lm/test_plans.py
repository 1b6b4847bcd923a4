"""What the studies need at their larger scales: the plans' settings are those of the notebooks, everything fits, and no pass over prompts makes logits that
nobody reads."""
import ast
import copy
import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import ROOT
from tokenstudy import core, lm as lms
from tokenstudy.lm import memory, plans, queue, rollout

GB = 10**9


def settings_of(study):
    "The settings of a study's notebook by scale: its call of core.scale, and the names before it in the cell."
    (file,) = (ROOT/"nbs").glob(f"{study}_*.ipynb")
    cells = ["".join(c["source"]) for c in json.loads(file.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    (cell,) = (c for c in cells if "core.scale(" in c)
    names = dict(core=SimpleNamespace(scale=lambda **of: of), LABELS=())
    for part in ast.parse(cell).body:
        if not isinstance(part, ast.Assign): continue
        exec(compile(ast.Module([part], []), str(file), "exec"), names)
        if "core.scale(" in ast.unparse(part): return names[part.targets[0].id]
    raise AssertionError(f"{study}: no settings")


def within(part, whole):
    "Where one dict says something else than another, or nothing that the other has not."
    if isinstance(part, dict) and isinstance(whole, dict): return [f"{k}.{x}" for k, v in part.items() for x in within(v, whole.get(k, "nothing"))]
    return [] if part == whole else [f" {part!r} for {whole!r}"]


def totals(study, settings): return [(p.what, *((n := p.on(memory_)[0]).total, n.largest, p.on(memory_)[1])) for p in plans.plans(study, settings) for memory_ in (24*GB, 80*GB, 141*GB)]


@pytest.mark.parametrize("study, scale", plans.SETTINGS, ids="-".join)
def test_the_settings_of_the_plans_are_the_notebooks(study, scale):
    of, ours = settings_of(study)[scale], plans.SETTINGS[study, scale]
    assert within(ours, of) == [] and totals(study, of) == totals(study, ours)


def test_no_study_with_large_scales_is_left_out():
    "Whoever asks `require_plans` has plans, and the other way round."
    asked = {text.split("require_plans(\"")[1].split("\"")[0] for f in (ROOT/"nbs").glob("*/*.ipynb") if f.parent.name != "lm"
             for c in json.loads(f.read_text("utf-8"))["cells"] if "require_plans(\"" in (text := "".join(c["source"]))}
    assert asked == set(plans._STUDIES) == {study for study, _ in plans.SETTINGS}
    assert {(s, scale) for s in asked for scale in settings_of(s) if scale in ("gpu", "paper")} == set(plans.SETTINGS)


@pytest.mark.parametrize("scale", ("smoke", "laptop"))
def test_small_scales_need_no_plan(scale):
    assert [plans.plans(study, settings_of(study)[scale]) for study in plans._STUDIES] == [[]]*len(plans._STUDIES)


def test_everything_fits():
    "On a card of 80 GB; no training at gpu needs 60 GB of it."
    found = {(*key, p.what): p.on(80*GB)[0] for key, some in plans.SETTINGS.items() for p in plans.plans(key[0], some)}
    assert len(found) > 30 and all(memory.fits(n, 80*GB) for n in found.values())
    trainings = {(study, p.what): p.needs(False) for (study, scale), some in plans.SETTINGS.items() if scale == "gpu" for p in plans.plans(study, some) if p.rows is None}
    assert len(trainings) > 10 and {name: n.total for name, n in trainings.items() if n.total >= 60*GB} == {}


@pytest.mark.parametrize("study, scale, change", [
    ("cdpo/09", "paper", lambda s: s["data"]["contrast"].update(batch_size=16)), ("tvm/05", "paper", lambda s: s["noise"].update(layers=None)),
    ("multidraft/05", "gpu", lambda s: s.update(batch=50_000)), ("tvm/11", "gpu", lambda s: s["unit"].update(micro_tokens=2**20))])
def test_what_would_not_fit_is_found(study, scale, change):
    change(settings := copy.deepcopy(plans.SETTINGS[study, scale]))
    assert not all(memory.fits(p.on(80*GB)[0], 80*GB) for p in plans.plans(study, settings))


@pytest.fixture
def card(monkeypatch):
    "torch.cuda as one card of 80 GB would show it, half of it taken."
    monkeypatch.setattr(core, "device", lambda override=None: torch.device(override or "cuda"), raising=False)
    monkeypatch.setattr(core.scales, "device", core.device)
    monkeypatch.setattr(core, "dtype", lambda kind=None: core.scales.dtype(kind or "bf16"), raising=False)
    def taken(*_): raise AssertionError("what is free depends on what ran before")
    for name, value in dict(mem_get_info=taken, memory_reserved=taken, memory_allocated=taken, get_device_properties=lambda place: SimpleNamespace(total_memory=80*GB)).items():
        monkeypatch.setattr(torch.cuda, name, value)


def test_a_card_is_asked_before_anything_is_loaded(card):
    lines = lms.require_plans("cdpo/09", plans.SETTINGS["cdpo/09", "paper"])
    assert any("checkpointing" in line and "most of it logits" in line for line in lines)
    with pytest.raises(core.MissingModelError, match="cdpo/03, samples: .* most of it keys and values.*Use a larger"):
        lms.require_plans("cdpo/03", dict(trajectories=1, screen=1, words=dict(model="facebook/opt-13b", limit=2**21)))
    with pytest.raises(ValueError, match="there are plans for"): lms.require_plans("cdpo/99", {})


def test_a_cpu_is_asked_for_weights_only(monkeypatch):
    monkeypatch.setattr(core, "total_memory", lambda place=None: 2*GB, raising=False)
    assert len(lms.require_plans("tvm/05", plans.SETTINGS["tvm/05", "gpu"], "cpu")) == 4
    with pytest.raises(core.MissingModelError, match="needs about 29 GB on cpu, most of it weights"): lms.require_plans("tvm/05", plans.SETTINGS["tvm/05", "paper"], "cpu")


@pytest.mark.parametrize("family", ("llama", "gpt2", "opt"))
def test_rows_are_those_that_sampling_takes(card, family):
    lm = lms.tiny_lm(family)
    on_card = SimpleNamespace(config=lm.model.config, dtype=torch.bfloat16, device=torch.device("cuda"), get_input_embeddings=lm.model.get_input_embeddings,
                              parameters=lambda: [p.bfloat16() for p in lm.model.parameters()])
    assert plans._cache(lm, "bf16") == queue.cache_bytes(lm._replace(model=on_card))
    sizes = dict(prompt=300_000, new=200_000)
    plan = plans._texts("texts", lm, *sizes.values(), "bf16")
    assert plan.rows(80*GB) == queue.rows_in_memory(lm._replace(model=on_card), sum(sizes.values())) < 4096
    w = plans._Words(lm, *sizes.values(), "bf16", "bf16")
    assert plans._rollouts(w, 32, 16).rows(80*GB) == rollout.wave_rows(lm._replace(model=on_card), sizes["new"])


# ---- logits at a prefill
def paths():
    "Name of a way to read prompts -> a call that reads texts with it."
    from tokenstudy.multidraft import LMDraft, Optimal, generate_multidraft
    from tokenstudy.tvm.policies import step_beam
    lm, prompts = lms.tiny_lm(), [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]
    beam = dict(K=2, delimiter={7}, max_steps=2, max_new_tokens=4)
    return lm, dict(
        sample=lambda: lms.sample(lm, prompts, max_new_tokens=3), sampled_in_slots=lambda: lms.sample(lm, prompts, max_new_tokens=3, compiled=False),
        plainly=lambda: list(queue._plainly(lm, prompts, [[0], [1]], 3, 2, {})), last_logits=lambda: lms.last_logits(lm.model, *lms.pad(prompts)),
        trunk=lambda: lms.Trunk(lm, prompts[0]), rollouts=lambda: lms.rollouts(lm, prompts[0], [], num_samples=3, positions=[0], max_new_tokens=3),
        step_beam=lambda: step_beam(lm, None, prompts, b=1, **beam), recompute=lambda: step_beam(lm, None, prompts, b=1, recompute=True, **beam),
        multidraft=lambda: generate_multidraft(lm, LMDraft(lm, 1.), prompts, scheme=Optimal(), K=1, L=1, max_new_tokens=3))


NAMES = ("sample", "sampled_in_slots", "plainly", "last_logits", "trunk", "rollouts", "step_beam", "recompute", "multidraft")


def widest(lm, call):
    "The most places that got logits in a forward pass over four tokens or more, which no tree of drafts has here."
    call()                                     # caches try a model out once, with short texts
    seen, plain = [], type(lm.model).forward
    @functools.wraps(plain)
    def forward(self, *args, **kwargs):
        out = plain(self, *args, **kwargs)
        if kwargs["input_ids"].shape[1] >= 4: seen.append(out.logits.shape[1])
        return out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(lm.model), "forward", forward)
        call()
    assert seen
    return max(seen)


@pytest.mark.parametrize("name", NAMES)
def test_a_prefill_makes_logits_of_one_place(name):
    lm, calls = paths()
    assert set(calls) == set(NAMES) and widest(lm, calls[name]) == 1


def test_a_prefill_of_all_places_is_found(monkeypatch):
    monkeypatch.setattr(queue, "takes", lambda model, name: False)
    lm, calls = paths()
    assert widest(lm, calls["sample"]) == 5


def test_pairs_on_a_card_get_logits_of_responses_only(card, monkeypatch):
    from tokenstudy.cdpo import methods
    lm = lms.tiny_lm()
    pairs = [dict(prompt_ids=[1]*n, chosen_ids=[4, 7, 5], rejected_ids=[3, 5]) for n in (2, 5)]
    plain = methods.pair_logprobs(lm.model, pairs, per_token=True)
    there = SimpleNamespace(device=torch.device("cuda"), forward=lm.model.forward, get_input_embeddings=lm.model.get_input_embeddings)
    kept = methods._places_kept
    monkeypatch.setattr(methods, "_places_kept", lambda model, batch: kept(there, batch))
    assert widest(lm, lambda: methods.pair_logprobs(lm.model, pairs)) == 7 and widest(lm, lambda: methods.pair_logprobs(lm.model, pairs[1:])) == 4
    for ours, theirs in zip(methods.pair_logprobs(lm.model, pairs, per_token=True), plain):
        for a, b in zip(ours, theirs): np.testing.assert_allclose(a, b, rtol=1e-5)
    there.get_input_embeddings = lambda: SimpleNamespace(num_embeddings=128_256)
    wide = [dict(prompt_ids=[1]*1300, chosen_ids=[4]*200, rejected_ids=[3])]*64
    assert methods._pairs_at_once(there, wide, 64) == 2 and methods._pairs_at_once(lm.model, wide, 64) == 64
