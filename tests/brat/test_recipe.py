"The experiment around inversion: recipe and gate of the bases, scores, paired comparisons, records, bench."
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
from tokenstudy import brat as bases, brat as canvas, brat as fidelity, brat as inversion
from tokenstudy.brat import bench

WORDS = dict(plain=1, single=False, joint=1, edits=1)

# ---- the recipe of the bases

def test_brat_pictures_of_the_recipe_are_reproducible_and_never_of_a_held_out_kind():
    x, y = bases.draw_world(40, seed=3, processes=1, part=20)
    again, _ = bases.draw_world(40, seed=3, processes=2, part=20)
    assert torch.equal(x, again) and x.dtype == torch.uint8 and x.shape == (40, 3, 32, 32) and y.shape == (40, 11)
    kinds = {tuple(c.values()) for c in canvas.CONCEPTS}
    for row, picture in zip(y, x):
        creature = bases.creature_of(row)
        assert canvas.check_creature(creature) and tuple(creature[k] for k in canvas.IDENTITY) not in kinds
    assert not torch.equal(x, bases.draw_world(40, seed=4, processes=1, part=20)[0])

def test_brat_base_learns_what_it_is_shown():
    "The loss of a batch falls when the base is trained on it, and the text takes part in that."
    x, y = bases.draw_world(8, processes=1)
    before = canvas.build_base("unet")
    trained = bases.train_base("unet", x, y, steps=12, decay=2, warmup=1, batch=8, device="cpu")
    latents = trained.vae.encode(bases.pixels_of(x)).latent_dist.mode()
    texts = [canvas.caption(bases.creature_of(v), mention=canvas.ATTRIBUTES) for v in y]
    with torch.no_grad():
        def loss(p, t): return float(bases.base_loss(p, p.unet, latents, t, torch.Generator().manual_seed(0)))
        assert loss(trained, texts) < .97 * loss(before, texts)
        assert loss(trained, texts) != loss(trained, texts[::-1])

def test_brat_gate_prompts_ask_for_what_they_say():
    prompts = bases.gate_prompts(200)
    assert all(canvas.parse(text) == asked and asked for text, asked in prompts)
    assert {k for _, asked in prompts for k in asked} == set(canvas.ATTRIBUTES)

def test_brat_gate_counts_hits_and_misses():
    class Half:
        def read(self, images):
            out = [dict.fromkeys(canvas.ATTRIBUTES) | asked for _, asked in prompts]
            for row in out[::2]: row["colour"] = "none"
            return out
    prompts = [("a red creature", dict(colour="red"))] * 4
    base = canvas.build_base("unet")
    base.set_progress_bar_config(disable=True)
    found = bases.gate(base, Half(), prompts, steps=1)
    assert found["colour"] == [0, 1, 0, 1] and not found["shape"]

def test_brat_gate_was_passed():
    "Both bases that are embedded, on 500 pictures."
    for name in canvas.BASES:
        file = core.manifest()[f"base-{name}.safetensors"]["sha256"][:16]
        records = [r for r in core.published("brat/bases", "laptop") if r["config"]["file"] == file and r["config"].get("count") == 500]
        assert records, f"no record of the gate for {name}"
        values = sum(records[-1]["result"].values(), [])
        assert len(values) > 2000 and np.mean(values) >= .9
        assert core.manifest()[f"base-{name}.safetensors"]["size"] < 12e6

# ---- prompts, scores, comparisons

@pytest.mark.parametrize("identity", canvas.CONCEPTS)
def test_brat_evaluation_prompts_ask_for_every_value_of_a_scene_and_edit_every_attribute(identity):
    prompts = fidelity.evaluation_prompts(identity)
    assert all(canvas.parse(text) == asked for text, asked in prompts) and all(text.count("{}") == 1 for text, _ in prompts)
    said = {(k, v) for _, asked in prompts for k, v in asked.items()}
    assert said >= {(k, v) for k, vs in canvas.SCENE.items() for v in vs if v != "nothing"}
    assert not said & set(identity.items()) and {k for k, _ in said} >= set(canvas.IDENTITY)
    assert prompts == fidelity.evaluation_prompts(identity)

@pytest.mark.parametrize("identity", canvas.CONCEPTS)
def test_brat_the_anchor_in_words_says_the_identity_and_what_is_asked(identity):
    spelled = fidelity.evaluation_prompts(identity, words=True)
    assert [asked for _, asked in spelled] == [asked for _, asked in fidelity.evaluation_prompts(identity)]
    assert all(canvas.parse(text) == identity | asked for text, asked in spelled)

def test_brat_words_of_no_identity_are_refused():
    assert len(fidelity.evaluation_prompts()) == 8 + 17 + 8
    with pytest.raises(ValueError, match="identity"): fidelity.evaluation_prompts(words=True)

def test_brat_templates_of_the_canvas_are_made_of_words_that_the_bases_know():
    trained = set(" ".join(canvas.caption(canvas.random_creature(rng), rng) for rng in [random.Random(0)] for _ in range(500)).split())
    assert {w for t in canvas.TEMPLATES for w in t.replace("{}", "").split()} <= trained

class Told:
    def __init__(self, answers): self.answers = answers
    def read(self, images): return self.answers

@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_brat_scores_count_right(rows):
    identity, answers, prompts = canvas.CONCEPTS[1], [], []
    for faithful, obedient in rows:
        found = dict.fromkeys(canvas.ATTRIBUTES, "none") | (identity if faithful else {}) | (dict(background="sea") if obedient else {})
        answers.append(found)
        prompts.append(("on the sea", dict(background="sea")))
    s = fidelity.scores([None] * len(rows), prompts, identity, Told(answers))
    assert math.isclose(s["fidelity"], np.mean([f for f, _ in rows])) and math.isclose(s["adherence"], np.mean([o for _, o in rows]))
    assert s["joint"] is None and s["plain"] is None and s["edit"] is None and s["scene"] == s["adherence"]

def test_brat_an_edit_is_no_breach_of_fidelity():
    identity = canvas.CONCEPTS[1]
    other = next(v for v in canvas.IDENTITY["eyes"] if v != identity["eyes"])
    found = dict.fromkeys(canvas.ATTRIBUTES, "none") | identity
    for eyes, edit in ((other, 1), (identity["eyes"], 0)):
        s = fidelity.scores([None], [("with", dict(eyes=other))], identity, Told([found | dict(eyes=eyes)]))
        assert (s["fidelity"], s["edit"], s["adherence"], s["scene"], s["by_attribute"]["eyes"]) == (1, edit, edit, None, None)

def record(strategy, concept, seed, value, base="unet"):
    return dict(config=dict(base=base, strategy=strategy, concept=concept, seed=seed), result=dict(fidelity=value))

@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(-.5, .5))
@settings(max_examples=30, deadline=None)
def test_brat_pairing_removes_what_is_easy_about_a_concept(ease, gap):
    records = [record(s, c, seed, e + (gap if s == "b" else 0)) for s in "ab" for c, e in enumerate(ease) for seed in range(2)]
    mean, low, high, n = fidelity.paired(records, ("unet", "a"), ("unet", "b"), "fidelity")
    assert n == len(ease) and abs(mean - gap) < 1e-9 and abs(low - gap) < 1e-9 and abs(high - gap) < 1e-9

def test_brat_pairing_uses_common_units_only():
    records = [record("a", 0, 0, .1), record("b", 0, 0, .3), record("b", 1, 0, 1.)]
    assert fidelity.paired(records, ("unet", "a"), ("unet", "b"), "fidelity")[3] == 1
    with pytest.raises(ValueError, match="no unit in common"): fidelity.paired(records, ("unet", "a"), ("transformer", "b"), "fidelity")

def test_brat_a_unit_is_reproducible_and_leaves_the_base_alone():
    base = canvas.load_base("unet", "cpu")
    before = {k: v.clone() for k, v in base.text_encoder.state_dict().items()}
    both = canvas.load_reader("cpu"), canvas.load_contrast("cpu")
    how = dict(steps=2, batch_size=2, num_inference_steps=2, **WORDS)
    units = [fidelity.run_unit(base, canvas.CONCEPTS[0], "bonus, λ=.01", both, **how) for _ in range(2)]
    assert units[0] == units[1] and len(base.tokenizer) == before[next(k for k in before if "token_embedding" in k)].shape[0]
    assert all(torch.equal(v, before[k]) for k, v in base.text_encoder.state_dict().items())
    assert json.loads(json.dumps(core.plain(units[0]))) == units[0]

@pytest.mark.parametrize("strategy", list(fidelity.STRATEGIES))
def test_brat_every_strategy_runs_on_the_embedded_transformer(strategy):
    both = canvas.load_reader("cpu"), canvas.load_contrast("cpu")
    unit = fidelity.run_unit(canvas.load_base("transformer", "cpu"), canvas.CONCEPTS[0], strategy, both, steps=1, batch_size=1, num_inference_steps=1, **WORDS)
    assert 0 <= unit["fidelity"] <= 1 and 0 <= unit["adherence"] <= 1 and math.isfinite(unit["loss"])

# ---- the committed records

def stored():
    return [r for r in core.published("brat/fidelity", "laptop") if "rows" in r["result"]
            and r["config"]["file"] == core.manifest()[f"base-{r['config']['base']}.safetensors"]["sha256"][:16]]

def test_brat_words_are_stored(): assert stored()

@pytest.mark.parametrize("base", sorted({r["config"]["base"] for r in stored()}))
def test_brat_a_stored_word_still_draws_what_its_record_says(base):
    found = [r for r in stored() if r["config"]["base"] == base and r["config"]["strategy"] == "bonus, λ=.01"]
    assert found, "no record to check"
    r = found[0]
    identity, options = canvas.CONCEPTS[r["config"]["concept"]], inversion.Options(**fidelity.STRATEGIES["bonus, λ=.01"])
    pipeline = canvas.load_base(base, "cpu")
    concept = inversion.Concept(fidelity.SUBJECT, inversion.token_names(fidelity.SUBJECT, options), options.join, "tokens",
                                dict(text_encoder=torch.tensor(r["result"]["rows"])), inversion.backbones.family(pipeline).family, {})
    asked = fidelity.evaluation_prompts(identity, **{k: r["config"][k] for k in ("plain", "single", "joint", "edits")})
    images = fidelity.drawn(pipeline, concept, [t for t, _ in asked], guidance_scale=3., num_inference_steps=r["config"]["num_inference_steps"])
    again = fidelity.scores(images, asked, identity, canvas.load_reader("cpu"))
    assert abs(again["fidelity"] - r["result"]["fidelity"]) < .02 and abs(again["adherence"] - r["result"]["adherence"]) < .02

# ---- a learned word leaves the house

PLAIN = """
import sys, torch
import tokenstudy.brat.canvas # its autoencoder
from diffusers import StableDiffusionPipeline
folder, word, out = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
for name in ("creature.safetensors", "creature-bonus.safetensors"): pipe.load_textual_inversion(word, weight_name=name)
pipe.set_progress_bar_config(disable=True)
image = pipe("a picture of a <creature>,<creature-bonus> at the beach", generator=torch.Generator().manual_seed(5), num_inference_steps=3, guidance_scale=3., output_type="pt").images
from safetensors.torch import save_file; save_file({"x": image.contiguous()}, out)
assert "tokenstudy.brat.inversion" not in sys.modules
"""

def test_brat_a_word_learned_here_draws_the_same_in_plain_diffusers(tmp_path):
    from safetensors.torch import load_file
    base = canvas.load_base("unet", "cpu")
    concept = inversion.invert(base, canvas.concept_pictures(canvas.CONCEPTS[0]), "<creature>", "creature", steps=3, batch_size=2, progress=False)
    concept.save(tmp_path/"word")
    names = sorted(p.name for p in (tmp_path/"word").glob("*.safetensors"))
    assert names == ["creature-bonus.safetensors", "creature.safetensors"]
    ours = concept.generate(base, "a picture of a <creature> at the beach", generator=torch.Generator().manual_seed(5), num_inference_steps=3,
                            guidance_scale=3., output_type="pt")
    run = subprocess.run([sys.executable, "-c", PLAIN, str(canvas.base_folder("unet")), str(tmp_path/"word"), str(tmp_path/"x")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert torch.allclose(load_file(tmp_path/"x")["x"], ours.cpu(), atol=1e-5)

# ---- the bench

def test_brat_bench_peer_restores_the_other_rows_and_ours_never_touches_them(tmp_path):
    script, ours = bench.contestant("script", "unet", tmp_path, 2), bench.contestant("ours", "unet", tmp_path, 2)
    frozen = ours.bb.encoders["text_encoder"][1].get_input_embeddings().weight.detach().clone()
    for trainer in (script, ours): trainer.step()
    others = torch.arange(len(script.table)) != script.token
    assert torch.equal(script.table[others], script.original[others]) and not torch.equal(script.table[script.token], script.original[script.token])
    assert torch.equal(ours.bb.encoders["text_encoder"][1].get_input_embeddings().weight, frozen)
    ours.__exit__(None, None, None)

def test_brat_bench_rows_have_their_fields(monkeypatch):
    monkeypatch.setattr(bench, "memory", lambda which, *args: 1. if which == "ours" else 2.)
    found = list(bench.rows(("unet",), runs=1, compiled=False))
    assert [r["name"] for r in found] == ["step_vs_diffusers", "memory_vs_diffusers"] and found[0]["goal"] == 1.2 and found[1]["ratio"] == 2

@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts the memory")
def test_brat_bench_memory_is_what_a_step_needs(tmp_path):
    assert 1 < bench.memory("ours", "unet", tmp_path, 1) < 2000

# ---- bases of other sizes

def test_brat_a_base_of_another_size_is_trained_once_and_loaded(tmp_path):
    how = dict(count=12, reading=1, processes=1, folder=tmp_path, steps=2, early=1, batch=2, device="cpu")
    file = bases.train_at(48, "transformer", **how)
    written = file.stat().st_mtime_ns
    assert bases.train_at(48, "transformer", **how) == file and file.stat().st_mtime_ns == written
    assert canvas.draw(canvas.load_base("transformer", "cpu", 48, file), "a creature", steps=1).shape == (1, 3, 48, 48)
    with pytest.raises(ValueError, match="train_at"): canvas.load_base("unet", "cpu", 48)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(core.CorruptFileError, match="delete"): canvas.load_base("transformer", "cpu", 48, file)
    with pytest.raises(core.CorruptFileError): canvas.load_base("transformer", "cpu", 48, tmp_path/"missing")
