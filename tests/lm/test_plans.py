"The plans of memory: they are those of the notebooks' settings, what they refuse, and that every study at scale gpu fits."
import ast

import pytest
from conftest import ROOT
from fastcore.nbio import read_nb

from tokenstudy import core, lm as lms
from tokenstudy.lm import plans
from tokenstudy.lm.memory import Needs

NAMED = dict(LABELS=(), BASES=(), ANCHORS=(), STRATEGIES=())


def settings_of(notebook: str) -> dict:
    "scale -> the settings that a notebook gives to `core.scale`, from its source."
    path, = (ROOT/"nbs").glob(f"{notebook}_*.ipynb")
    for cell in read_nb(path).cells:
        if cell.cell_type != "code" or "= core.scale(" not in cell.source: continue
        names = dict(NAMED)
        for node in ast.parse(cell.source).body:
            call = node.value if isinstance(node, ast.Assign) else None
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "core.scale":
                found = {k.arg: k.value for k in call.keywords if k.arg in ("gpu", "paper")}
                return {k: eval(compile(ast.Expression(v), "settings", "eval"), {}, names) for k, v in found.items()}
            try: exec(compile(ast.Module([node], []), "settings", "exec"), names)
            except (NameError, ImportError): pass
    raise LookupError(notebook)


def sizes_of(notebook: str, scale: str) -> dict:
    "What a notebook's settings say about sizes, in the words of the plans."
    s = settings_of(notebook)[scale]
    if notebook.startswith("tvm"):
        training = s.get("training") or s["unit"]
        return dict(model=s["text"]["model"], new=s["text"].get("max_new_tokens", 200), tokens=training.get("micro_tokens", 8192), lora=s.get("lora", training.get("lora", 0)))
    if notebook == "cdpo/03": return dict(model=s["words"]["model"], new=s["words"]["limit"], contrast=s["words"].get("lora", 0))
    if notebook == "cdpo/09":
        new, long = s["task"]["max_new_tokens"], s["training"].get("max_length")
        return dict(model=s["models"][0] if "models" in s else s["model"], new=new, contrast=s["data"]["contrast"].get("lora", 0), lora=s.get("lora", {}).get("r", 0),
                    tokens=2*s["training"]["batch_size"]*(long or 200 + new))
    return dict(model=s["target"], draft=(s["draft"] if "draft" in s else s["drafts"][0]) if scale == "paper" else None, new=s["tokens"], rows=s["batch"])


@pytest.fixture
def asked(monkeypatch):
    "The functions of `lm.memory` as plans call them: (name, model, arguments, options)."
    calls = []
    def of(name):
        def call(model, *args, **how):
            calls.append((name, model, args, how))
            return Needs(name, {"weights": 1.})
        return call
    for name in ("sampling_needs", "training_needs", "verifier_needs", "preference_needs"): monkeypatch.setattr(plans, name, of(name))
    return calls


NOTEBOOKS = sorted({(p.notebook, p.scale) for p in plans.PLANS})


@pytest.mark.parametrize("notebook, scale", NOTEBOOKS)
def test_plans_are_those_of_the_settings(notebook, scale, asked):
    said = sizes_of(notebook, scale)
    for plan in plans.plans_of(notebook, scale): plan.needs_of(plan.rows or True)
    assert said["model"] in {model for _, model, *_ in asked}
    for name, model, args, how in asked:
        if name == "sampling_needs" and model != said.get("draft"): assert args[1] - how["prompt_tokens"] == said["new"]
        if name == "verifier_needs": assert args[0] == said["tokens"] and how.get("lora", 0) == said["lora"]
        if name == "preference_needs": assert args[0] == said["tokens"] and how.get("lora", 0) == said["lora"]
        if name == "training_needs" and scale == "paper": assert how["lora"] == said["contrast"]
    if "rows" in said:
        at_once = [args[0] for _, model, args, _ in asked if model == said["model"]]
        assert at_once == [said["rows"]*(6 if (notebook, scale) == ("multidraft/11", "gpu") else 1)]
        assert [model for _, model, *_ in asked if model != said["model"]] == [said["draft"]]*(scale == "paper")
    if (notebook, scale) == ("cdpo/09", "paper"): assert {model for _, model, *_ in asked} == set(settings_of(notebook)[scale]["models"])


def test_every_notebook_with_a_language_model_has_a_plan():
    found = set()
    for path in sorted((ROOT/"nbs").glob("*/*.ipynb")):
        code = "\n".join(c.source for c in read_nb(path).cells if c.cell_type == "code")
        if "= core.scale(" in code and '"smollm2"' in code: found.add(f"{path.parent.name}/{path.name[:2]}")
    assert found == {name for name, _ in NOTEBOOKS}
    for name in found:
        path, = (ROOT/"nbs").glob(f"{name}_*.ipynb")
        assert f'require_plans("{name}")' in "\n".join(c.source for c in read_nb(path).cells), name


@pytest.mark.parametrize("plan", plans.PLANS, ids=lambda p: f"{p.notebook}-{p.scale}-{p.model.split('/')[-1]}-{p.what}")
def test_every_plan_fits(plan):
    "80 GB hold everything; at scale gpu 24 GB do, and no training needs 60 GB without checkpointing."
    assert plan.needs(80e9).total <= 72e9 and plan.verdict(80e9) != "no"
    if plan.scale == "gpu": assert plan.verdict(24e9) != "no" and (plan.rows or plan.needs_of(False).total < 60e9)


def test_what_is_required_before_a_study(monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_SCALE", "paper")
    def machine(total, free):
        monkeypatch.setattr(core, "total_memory", lambda place: total)
        monkeypatch.setattr(core, "available_memory", lambda place: free)
    machine(80e9, 79e9)
    lms.require_plans("cdpo/03", "cpu")
    machine(80e9, 30e9)
    with pytest.raises(core.MissingModelError, match="Llama-3-8B.* needs about 7. GB on cpu, but only 30.0 GB"): lms.require_plans("cdpo/03", "cpu")
    machine(24e9, 23e9)
    with pytest.raises(core.MissingModelError, match="fine-tuning, adapters of rank 8.* needs about"): lms.require_plans("cdpo/03", "cpu")
    machine(8e9, 8e9)
    with pytest.raises(core.MissingModelError, match="can be planned with"): lms.require_plans("cdpo/03", "cpu")
    monkeypatch.setenv("TOKENSTUDY_SETTINGS", '{"problems": 2}')
    lms.require_plans("cdpo/03", "cpu")                    # the plans are not those of cut settings
    with pytest.raises(ValueError, match="there are plans of cdpo/03"): lms.plans_of("cdpo/99")


def test_verdicts():
    plan = plans.Plan("a/01", "gpu", "smollm2", "texts", lambda n: Needs("texts", {"cache": n*1e9}), 100)
    assert [plan.verdict(n) for n in (1e9, 24e9, 200e9)] == ["no", "21 at once", "yes"]
    training = plans.Plan("a/01", "gpu", "smollm2", "a training", lambda on: Needs("a training", {"activations": 5e9 if on else 50e9}))
    assert [training.verdict(n) for n in (4e9, 24e9, 80e9)] == ["no", "checkpointing", "yes"]
