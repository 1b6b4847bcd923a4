"The ablation: prompts, scores, paired comparisons, committed records."
import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from tokenstudy import core
from tokenstudy.brat.world import ATTRIBUTES, CONCEPTS, IDENTITY, SCENE, random_creature
from tokenstudy.brat.captions import CAPTION_TEMPLATES, caption, concept_pictures, parse
from tokenstudy.brat.bases import base_folder, load_base
from tokenstudy.brat.instruments import load_contrast, load_reader
from tokenstudy.brat.backbones import backbone_class
from tokenstudy.brat.concepts import Concept
from tokenstudy.brat.strategies import Options, token_names
from tokenstudy.brat.inversion import DivergedError, invert
from tokenstudy.brat.fidelity import STRATEGIES, SUBJECT, drawn, evaluation_prompts, paired, run_unit, run_units, scores


WORDS = dict(plain=1, single=False, joint=1, edits=1)


@pytest.mark.parametrize("identity", CONCEPTS)
def test_evaluation_prompts_ask_for_every_value_of_a_scene_and_edit_every_attribute(identity):
    prompts = evaluation_prompts(identity)
    assert all(parse(text) == asked for text, asked in prompts) and all(text.count("{}") == 1 for text, _ in prompts)
    said = {(k, v) for _, asked in prompts for k, v in asked.items()}
    assert said >= {(k, v) for k, vs in SCENE.items() for v in vs if v != "nothing"}
    assert not said & set(identity.items()) and {k for k, _ in said} >= set(IDENTITY)
    assert prompts == evaluation_prompts(identity)

@pytest.mark.parametrize("identity", CONCEPTS)
def test_the_anchor_in_words_says_the_identity_and_what_is_asked(identity):
    spelled = evaluation_prompts(identity, words=True)
    assert [asked for _, asked in spelled] == [asked for _, asked in evaluation_prompts(identity)]
    assert all(parse(text) == identity | asked for text, asked in spelled)

def test_words_of_no_identity_are_refused():
    assert len(evaluation_prompts()) == 8 + 17 + 8
    with pytest.raises(ValueError, match="identity"): evaluation_prompts(words=True)

def test_bad_arguments_a_prompt_is_scored_with_its_picture():
    answers, asked = Told([dict.fromkeys(ATTRIBUTES, "none")]*2), [("a creature", {})]
    for prompts in (asked, asked*3):
        with pytest.raises(ValueError, match="images, prompts: 2, . entries"): scores(None, prompts, CONCEPTS[1], answers)

def test_templates_of_the_canvas_are_made_of_words_that_the_bases_know():
    trained = set(" ".join(caption(random_creature(rng), rng) for rng in [random.Random(0)] for _ in range(500)).split())
    assert {w for t in CAPTION_TEMPLATES for w in t.replace("{}", "").split()} <= trained

class Told:
    def __init__(self, answers): self.answers = answers
    def read(self, images): return self.answers

@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_scores_count_right(rows):
    identity, answers, prompts = CONCEPTS[1], [], []
    for faithful, obedient in rows:
        found = dict.fromkeys(ATTRIBUTES, "none") | (identity if faithful else {}) | (dict(background="sea") if obedient else {})
        answers.append(found)
        prompts.append(("on the sea", dict(background="sea")))
    s = scores([None] * len(rows), prompts, identity, Told(answers))
    assert math.isclose(s["fidelity"], np.mean([f for f, _ in rows])) and math.isclose(s["adherence"], np.mean([o for _, o in rows]))
    assert s["joint"] is None and s["plain"] is None and s["edit"] is None and s["scene"] == s["adherence"]

def test_an_edit_is_no_breach_of_fidelity():
    identity = CONCEPTS[1]
    other = next(v for v in IDENTITY["eyes"] if v != identity["eyes"])
    found = dict.fromkeys(ATTRIBUTES, "none") | identity
    for eyes, edit in ((other, 1), (identity["eyes"], 0)):
        s = scores([None], [("with", dict(eyes=other))], identity, Told([found | dict(eyes=eyes)]))
        assert (s["fidelity"], s["edit"], s["adherence"], s["scene"], s["by_attribute"]["eyes"]) == (1, edit, edit, None, None)

def record(strategy, concept, seed, value, base="unet"):
    return dict(config=dict(base=base, strategy=strategy, concept=concept, seed=seed), result=dict(fidelity=value))

@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(-.5, .5))
@settings(max_examples=30, deadline=None)
def test_pairing_removes_what_is_easy_about_a_concept(ease, gap):
    records = [record(s, c, seed, e + (gap if s == "b" else 0)) for s in "ab" for c, e in enumerate(ease) for seed in range(2)]
    mean, low, high, n = paired(records, ("unet", "a"), ("unet", "b"), "fidelity")
    assert n == len(ease) and abs(mean - gap) < 1e-9 and abs(low - gap) < 1e-9 and abs(high - gap) < 1e-9

def test_pairing_uses_common_units_only():
    records = [record("a", 0, 0, .1), record("b", 0, 0, .3), record("b", 1, 0, 1.)]
    assert paired(records, ("unet", "a"), ("unet", "b"), "fidelity")[3] == 1
    with pytest.raises(ValueError, match="no unit in common"): paired(records, ("unet", "a"), ("transformer", "b"), "fidelity")

def test_a_unit_is_reproducible_and_leaves_the_base_alone():
    base = load_base("unet", "cpu")
    before = {k: v.clone() for k, v in base.text_encoder.state_dict().items()}
    both = load_reader("cpu"), load_contrast("cpu")
    how = dict(num_steps=2, batch_size=2, num_inference_steps=2, **WORDS)
    units = [run_unit(base, CONCEPTS[0], "bonus, λ=.01", instruments=both, **how) for _ in range(2)]
    assert units[0] == units[1] and len(base.tokenizer) == before[next(k for k in before if "token_embedding" in k)].shape[0]
    assert all(torch.equal(v, before[k]) for k, v in base.text_encoder.state_dict().items())
    assert json.loads(json.dumps(core.plain(units[0]))) == units[0]

@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_runs_on_the_embedded_transformer(strategy):
    both = load_reader("cpu"), load_contrast("cpu")
    unit = run_unit(load_base("transformer", "cpu"), CONCEPTS[0], strategy, instruments=both, num_steps=1, batch_size=1, num_inference_steps=1, **WORDS)
    assert 0 <= unit["fidelity"] <= 1 and 0 <= unit["adherence"] <= 1 and math.isfinite(unit["loss"])


def close(one, other):
    "Equal results, up to rounding in what is a number and what is read of a pixel."
    assert one.keys() == other.keys()
    for k in ("clip_i", "clip_t", "consistency", "loss", "norm", "cos"):
        if one.get(k) is not None: assert abs(one[k] - other[k]) < 2e-3, k
    if "rows" in one: assert np.allclose(one["rows"], other["rows"], atol=1e-3)
    assert abs(one["fidelity"] - other["fidelity"]) < .1

@pytest.mark.parametrize("base, strategy", [("unet", "bonus, λ=.1"), ("transformer", "negative"), ("transformer", "default, fixed norm"), ("unet", "words")])
def test_units_together_are_the_units_alone(base, strategy):
    pipeline, units = load_base(base, "cpu"), [(CONCEPTS[0], 0), (CONCEPTS[1], 0), (CONCEPTS[0], 1)]
    how = dict(instruments=(load_reader("cpu"), load_contrast("cpu")), num_steps=2, batch_size=2, num_inference_steps=2, **WORDS)
    before = {k: v.clone() for k, v in pipeline.text_encoder.state_dict().items()}
    found = run_units(pipeline, units, strategy, at_once=5, **how)
    alone = [run_unit(pipeline, identity, strategy, seed=seed, **how) for identity, seed in units]
    for one, other in zip(found, alone, strict=True): close(one, other)
    with pytest.raises(AssertionError): close(found[0], alone[1])
    assert json.loads(json.dumps(core.plain(found))) == found
    assert all(torch.equal(v, before[k]) for k, v in pipeline.text_encoder.state_dict().items())

def test_a_unit_that_diverges_takes_no_other_along(monkeypatch):
    from tokenstudy.brat.many import Joint
    pipeline, measured = load_base("unet", "cpu"), Joint._measured
    def broken(self, *args):
        found = measured(self, *args)
        found[0][1] = math.nan
        return found
    monkeypatch.setattr(Joint, "_measured", broken)
    how = dict(instruments=(load_reader("cpu"), load_contrast("cpu")), num_steps=2, batch_size=2, num_inference_steps=1, **WORDS)
    bad, good = run_units(pipeline, [(CONCEPTS[0], 0), (CONCEPTS[1], 0)], "default", **how)
    assert isinstance(bad, DivergedError)
    monkeypatch.undo()
    close(good, run_unit(pipeline, CONCEPTS[1], "default", **how))


def stored():
    return [r for r in core.published("brat/fidelity", "laptop") if "rows" in r["result"]
            and r["config"]["file"] == core.manifest()[f"base-{r['config']['base']}.safetensors"]["sha256"][:16]]

def test_words_are_stored(): assert stored()

@pytest.mark.parametrize("base", sorted({r["config"]["base"] for r in stored()}))
def test_a_stored_word_still_draws_what_its_record_says(base):
    found = [r for r in stored() if r["config"]["base"] == base and r["config"]["strategy"] == "bonus, λ=.01"]
    assert found, "no record to check"
    r = found[0]
    identity, options = CONCEPTS[r["config"]["concept"]], Options(**STRATEGIES["bonus, λ=.01"])
    pipeline = load_base(base, "cpu")
    concept = Concept(SUBJECT, token_names(SUBJECT, options), options.join, "tokens",
                                dict(text_encoder=torch.tensor(r["result"]["rows"])), backbone_class(pipeline).family, {})
    asked = evaluation_prompts(identity, **{k: r["config"][k] for k in ("plain", "single", "joint", "edits")})
    images = drawn(pipeline, concept, [t for t, _ in asked], guidance_scale=3., num_inference_steps=r["config"]["num_inference_steps"])
    again = scores(images, asked, identity, load_reader("cpu"))
    assert abs(again["fidelity"] - r["result"]["fidelity"]) < .02 and abs(again["adherence"] - r["result"]["adherence"]) < .02


PLAIN = """
import sys, torch
import tokenstudy.brat.bases # its autoencoder
from diffusers import StableDiffusionPipeline
folder, word, out = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
for name in ("creature.safetensors", "creature-bonus.safetensors"): pipe.load_textual_inversion(word, weight_name=name)
pipe.set_progress_bar_config(disable=True)
image = pipe("a picture of a <creature>,<creature-bonus> at the beach", generator=torch.Generator().manual_seed(5), num_inference_steps=3, guidance_scale=3., output_type="pt").images
from safetensors.torch import save_file; save_file({"x": image.contiguous()}, out)
assert "tokenstudy.brat.inversion" not in sys.modules
"""

def test_a_word_learned_here_draws_the_same_in_plain_diffusers(tmp_path):
    from safetensors.torch import load_file
    base = load_base("unet", "cpu")
    concept = invert(base, concept_pictures(CONCEPTS[0]), "<creature>", num_steps=3, batch_size=2, progress=False)
    concept.save(tmp_path/"word")
    names = sorted(p.name for p in (tmp_path/"word").glob("*.safetensors"))
    assert names == ["creature-bonus.safetensors", "creature.safetensors", "learned_embeds.safetensors"]
    ours = concept.generate(base, "a picture of a <creature> at the beach", generator=torch.Generator().manual_seed(5), num_inference_steps=3,
                            guidance_scale=3., output_type="pt")
    run = subprocess.run([sys.executable, "-c", PLAIN, str(base_folder("unet")), str(tmp_path/"word"), str(tmp_path/"x")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert torch.allclose(load_file(tmp_path/"x")["x"], ours.cpu(), atol=1e-5)
