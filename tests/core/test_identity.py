"core.identity: one changed number anywhere changes the fingerprint; what does not matter leaves it alone."
import ast
import functools

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, strategies as st

from tokenstudy import core, lm as lms
from tokenstudy.core import identity
from tokenstudy.core.identity import code_fingerprint, fingerprint, imports_of, reachable


def test_the_last_bit_of_every_parameter_and_buffer_counts():
    model = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.BatchNorm1d(200))
    model.register_buffer("scratch", torch.zeros(3), persistent=False)
    seen = {fingerprint(model)}
    for tensor in [*model.parameters(), *model.buffers()]:
        flat = tensor.detach().reshape(-1)
        old = flat[-1].clone()
        flat[-1] = old + 1 if not old.is_floating_point() else torch.nextafter(old, old + 1)
        seen.add(fingerprint(model))
        flat[-1] = old
    assert len(seen) == 1 + len([*model.parameters(), *model.buffers()]) and fingerprint(model) in seen
    assert fingerprint(model.eval().requires_grad_(False)) in seen
    assert fingerprint(model.double()) not in seen


def test_reported_late_rows_of_a_language_model_count():
    a, b = lms.tiny_lm(), lms.tiny_lm()
    assert fingerprint(a.model) == fingerprint(b.model)
    with torch.no_grad(): b.model.get_input_embeddings().weight[-1, -1] += 1e-3
    assert fingerprint(a.model) != fingerprint(b.model)
    c = lms.tiny_lm()
    c.model.config.rms_norm_eps = 1e-2                         # the same weights compute something else
    assert fingerprint(a.model) != fingerprint(c.model)
    c = lms.tiny_lm()
    c.model.config._name_or_path, c.model.config.use_cache = "elsewhere", False
    assert fingerprint(a.model) == fingerprint(c.model)
    assert fingerprint(a) == fingerprint(lms.tiny_lm())


def test_strided_and_half_tensors():
    x = torch.arange(12.).reshape(3, 4)
    assert fingerprint(x.T) == fingerprint(x.T.contiguous()) != fingerprint(x)
    assert len({fingerprint(x.to(d)) for d in (torch.float32, torch.bfloat16, torch.float16, torch.int64)}) == 4
    assert fingerprint(x.numpy().T) == fingerprint(x.numpy().T.copy())


@given(st.integers(0, 199), st.sampled_from(["id", "tokens", "score"]))
def test_one_changed_row_counts(row, column):
    rows = [dict(id=f"q{i}", tokens=[i, i + 1], score=i/7) for i in range(200)]
    changed = [dict(r) for r in rows]
    changed[row][column] = dict(id="other", tokens=[row, row + 2], score=row/7 + 1e-12)[column]
    assert fingerprint(rows) != fingerprint(changed)
    assert fingerprint(Dataset.from_list(rows)) == fingerprint(rows)
    assert fingerprint(Dataset.from_list(changed)) == fingerprint(changed)
    assert fingerprint(rows[:-1]) != fingerprint(rows) != fingerprint(rows[::-1])


def test_selected_rows_are_those_of_a_list():
    rows = [dict(id=i) for i in range(10)]
    assert fingerprint(Dataset.from_list(rows).select([3, 1])) == fingerprint([rows[3], rows[1]])


PLAIN = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False, width=16), st.text(max_size=3)),
                     lambda x: st.one_of(st.lists(x, max_size=3), st.dictionaries(st.text(max_size=2), x, max_size=3)), max_leaves=6)

@given(PLAIN, PLAIN)
def test_settings_differ_exactly_if_their_text_does(a, b):
    import json
    text = lambda x: json.dumps(x, sort_keys=True)
    assert (fingerprint(a) == fingerprint(b)) == (text(a) == text(b))
    assert (fingerprint(a, b) == fingerprint(b, a)) == (text(a) == text(b))
    assert fingerprint(x=a) != fingerprint(a)


def test_sets_and_keys_of_any_order():
    assert fingerprint({"a", "b", "c"}) == fingerprint({"c", "b", "a"}) != fingerprint({"a", "b"})
    assert fingerprint({1: 2, "a": np.ones(1)}) == fingerprint({"a": np.ones(1), 1: 2})
    from peft import LoraConfig
    config = lambda *names: LoraConfig(r=4, target_modules=list(names))
    assert fingerprint(config("q", "v")) == fingerprint(config("v", "q")) != fingerprint(config("q"))


@pytest.mark.parametrize("bad, place", [((i for i in "ab"), "things[0]"), (dict(a=[1, object()]), "things[0]['a'][1]")])
def test_what_cannot_be_hashed_whole_is_refused_with_its_place(bad, place):
    with pytest.raises(ValueError) as e: fingerprint(bad)
    assert place in str(e.value)


# ---- code

@pytest.fixture
def package(tmp_path, monkeypatch):
    "A package of which we are the authors, so that it can change."
    home = tmp_path/"toykit"
    for name, text in {"__init__": "", "core/__init__": 'import lazy_loader\na = lazy_loader.attach(__name__, submodules=["x", "y"], submod_attrs={"x": ["f"], "y": ["g"]})',
                       "core/x": "def f(): return 1", "core/y": "from .x import f\ndef g(): return f()", "core/z": "def h(): pass",
                       "use": "from . import core\ndef unit(): return core.f()", "deep": "def unit():\n    from toykit.core import g\n    return g()",
                       "all": "from . import core as c\nprint(c)"}.items():
        path = home/f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(identity, "PACKAGE", "toykit")
    caches = [f for f in vars(identity).values() if hasattr(f, "cache_clear")]
    def write(name=None, text=None):
        if name: (home/f"{name}.py").write_text(text)
        for f in caches: f.cache_clear()
    write()
    yield write
    monkeypatch.undo()
    write()


def test_imports_are_followed_through_front_doors(package):
    assert reachable("toykit.use") == ("toykit.core.x", "toykit.use")
    assert reachable("toykit.deep") == ("toykit.core.x", "toykit.core.y", "toykit.deep")
    assert reachable("toykit.all") == ("toykit.all", "toykit.core.x", "toykit.core.y", "toykit.core.z")


def test_code_that_is_reached_counts_and_no_other(package):
    before = {m: code_fingerprint(f"toykit.{m}") for m in ("use", "deep", "all")}
    package("core/y", "from .x import f\ndef g(): return f() + 1")
    assert {m for m in before if before[m] != code_fingerprint(f"toykit.{m}")} == {"deep", "all"}
    package("core/y", '"About y."\nfrom .x import f  # ours\n\ndef g():\n    "Doc."\n    return f()')
    assert {m: code_fingerprint(f"toykit.{m}") for m in before} == before
    package("core/x", "def f(): return 2")
    assert all(before[m] != code_fingerprint(f"toykit.{m}") for m in before)


def test_functions_of_a_notebook_bring_what_they_name():
    def unit(x): return core.wilson(x, 10)
    def other(x): return core.wilson(x, 11)
    def through(x): return unit(x)
    assert code_fingerprint(unit) == code_fingerprint(unit) != code_fingerprint(other)
    lines = identity._code_lines(through, set())
    assert identity._code_lines(unit, set()) < lines and any(line.startswith("tokenstudy.core.statistics ") for line in lines)
    assert not any(line.startswith("tokenstudy.core.show ") for line in lines)
    assert code_fingerprint(functools.partial(unit, 1)) != code_fingerprint(functools.partial(unit, 2))
    assert code_fingerprint(core.wilson) == code_fingerprint("tokenstudy.core.statistics")
    with pytest.raises(ValueError, match="no module"): code_fingerprint("tokenstudy.nothing")
    with pytest.raises(ValueError, match="is not a module of tokenstudy"): code_fingerprint("numpy")


def test_every_module_of_ours_is_reached_from_somewhere_and_parses():
    import pathlib
    import tokenstudy
    root = pathlib.Path(tokenstudy.__file__).parent
    names = [".".join(["tokenstudy", *p.relative_to(root).with_suffix("").parts]) for p in root.rglob("*.py") if p.stem[0] != "_"]
    for name in names: assert name in reachable(name) and imports_of(name) <= set(names), name
    assert "tokenstudy.core.scales" in reachable("tokenstudy.brat.recipe")
    assert not {"tokenstudy.app.study", "tokenstudy.tvm.search"} & set(reachable("tokenstudy.brat.recipe"))
