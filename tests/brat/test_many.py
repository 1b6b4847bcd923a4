"Many concepts in one forward pass: each is what `invert` learns alone, nothing leaks between them, and a leak that is put in is found."
import dataclasses

import pytest
import torch
from brat.toys import FAMILIES, changes, pictures, pipeline, whole_state

from tokenstudy.brat import many
from tokenstudy.brat.bases import load_base
from tokenstudy.brat.captions import CAPTION_TEMPLATES, concept_pictures
from tokenstudy.brat.drawing import Concept
from tokenstudy.brat.inversion import DivergedError, invert
from tokenstudy.brat.many import Joint, draw_many, invert_many
from tokenstudy.brat.strategies import Options
from tokenstudy.brat.tokens import OwnRows
from tokenstudy.brat.world import CONCEPTS

MIXED = [dict(num_bonus=0, lr=.05, num_steps=4, batch_size=2),
         dict(num_bonus=1, orthogonality=1., clip=.01, weight_decay=.1, num_steps=2, batch_size=3, flip=True),
         dict(num_bonus=3, orthogonality=.1, fixed_norm=True, join=" ", num_steps=4, batch_size=1, accumulation=2, lr_schedule="cosine")]


def alone(pipe, images, options, **more):
    return invert(pipe, images, progress=False, **{f.name: getattr(options, f.name) for f in dataclasses.fields(options)} | more)


def gap(one, two):
    "The largest difference of two concepts, in rows and in the history."
    rows = [float((one.embeddings[slot] - two.embeddings[slot]).abs().max()) for slot in one.embeddings]
    past = [abs(a[k] - b[k]) for a, b in zip(one.history, two.history, strict=True) for k in ("loss", "norm", "cos") if a[k] is not None]
    assert [h["step"] for h in one.history] == [h["step"] for h in two.history] and [h["cos"] is None for h in one.history] == [h["cos"] is None for h in two.history]
    return max(rows + past)


@pytest.mark.parametrize("base", ["unet", "transformer"])
def test_each_concept_is_learned_as_if_it_were_alone(base):
    pipe = load_base(base, "cpu")
    for part in (pipe.text_encoder, getattr(pipe, "unet", None) or pipe.transformer): part.double()
    images = [concept_pictures(CONCEPTS[i], 3) for i in range(3)]
    options = [Options(seed=i, templates=CAPTION_TEMPLATES, **how) for i, how in enumerate(MIXED)]
    found = invert_many(pipe, images, options, progress=False)
    for x, o, concept in zip(images, options, found):
        expected = alone(pipe, x, o)
        assert concept.settings == expected.settings and concept.tokens == expected.tokens
        assert gap(concept, expected) < 2e-5, o
    assert gap(found[0], alone(pipe, images[0], dataclasses.replace(options[0], seed=5))) > 1e-3      # another seed is seen


WAYS = dict(tokens=dict(num_bonus=1), negative=dict(strategy="negative"), blocks=dict(strategy="blocks", blocks=3))

PAIRS = [("sd", "tokens"), ("sd", "negative"), ("sdxl", "blocks"), ("sd3", "tokens"), ("flux", "negative"), ("sana", "blocks"), ("pixart", "tokens")]

def test_no_family_is_left_out(): assert {family for family, _ in PAIRS} == set(FAMILIES) and {way for _, way in PAIRS} == set(WAYS)

@pytest.mark.parametrize("family, way", PAIRS)
def test_all_families_and_strategies_learn_and_draw_as_alone(family, way):
    pipe = pipeline(family)
    before = whole_state(pipe)
    options = [Options(seed=s, num_steps=2, batch_size=2, size=32, **WAYS[way]) for s in range(2)]
    found = invert_many(pipe, [pictures(2), pictures(3)], options, placeholder="<x>", init_word="cat", progress=False)
    assert changes(before, whole_state(pipe)) == []
    for concept, x, o in zip(found, (pictures(2), pictures(3)), options):
        assert gap(concept, alone(pipe, x, o, placeholder="<x>", init_word="cat")) < 2e-4
    texts, seeds = [["a <x>", "the <x>"], ["a <x>"]], [[1, 2], [3]]
    drawn = draw_many(pipe, found, texts, seeds, batch_size=2, num_inference_steps=3)
    assert changes(before, whole_state(pipe)) == []
    for concept, some, numbers, shown in zip(found, texts, seeds, drawn):
        noise = [torch.Generator().manual_seed(n) for n in numbers]
        expected = torch.as_tensor(concept.generate(pipe, some, generator=noise, output_type="pt", num_inference_steps=3))
        concept.remove(pipe)
        assert shown.shape == expected.shape and torch.allclose(shown, expected, atol=2e-3)
    assert not torch.allclose(drawn[0][0], drawn[1][0], atol=2e-3)


TWO = dict(placeholder="<x>", init_word="cat", progress=False)

def two(**how): return [Options(seed=s, num_steps=3, batch_size=2, **how) for s in range(2)]

def worst(images=None, options=None):
    images, options = images or [pictures(2), pictures(3)], options or two(orthogonality=1., clip=.01)
    found = invert_many(pipeline(), images, options, **TWO)
    return max(gap(c, alone(pipeline(), x, o, placeholder="<x>", init_word="cat")) for c, x, o in zip(found, images, options))


LEAKS = {
    "a sample reads another's rows": (OwnRows, "row_of", lambda self, slot: self.owners.places[0][slot.clamp(min=0)]),
    "the penalty of pairs of two concepts": (Joint, "_activate", lambda self, active, whole=Joint._activate: (whole(self, active), active and setattr(self, "pairs", torch.ones_like(self.pairs).triu(1)))),
    "one bound for the gradients of all": (Joint, "_bound", lambda self, whole: torch.nn.utils.clip_grad_norm_(self.flat.values(), .01)),
    "a random stream for all": (many._Member, "batches", lambda self, streams={}: (setattr(self, "generator", streams.setdefault(0, self.generator)), [self.draw()])[1])}

@pytest.mark.parametrize("leak", LEAKS)
def test_an_injected_leak_between_concepts_is_found(leak, monkeypatch):
    where, name, wrong = LEAKS[leak]
    monkeypatch.setattr(where, name, wrong)
    assert worst() > 1e-4

def test_without_a_leak_none_is_found(): assert worst() < 2e-5


def test_a_gradient_of_one_concept_reaches_its_own_rows_only():
    with Joint(pipeline(), [pictures(2)]*3, [Options(batch_size=2, seed=s) for s in range(3)], placeholder="<x>", init_word="cat") as joint:
        batches = [m.draw() for m in joint.members]
        joint.losses([0, 1, 2], batches)[1].backward()
        touched = joint.flat["text_encoder"].grad.abs().amax(1) > 0
    assert touched.tolist() == [False, False, True, True, False, False]


def test_a_concept_that_diverges_leaves_the_others_alone(monkeypatch):
    images, options = [pictures(2), pictures(3)], [Options(seed=0, num_steps=4, batch_size=2, lr=1e30, orthogonality=0.), Options(seed=1, num_steps=4, batch_size=2)]
    found = invert_many(pipeline(), images, options, **TWO)
    with pytest.raises(DivergedError) as expected: alone(pipeline(), images[0], options[0], placeholder="<x>", init_word="cat")
    assert isinstance(found[0], DivergedError) and str(found[0]).split(":")[0] == str(expected.value).split(":")[0] and "concept 0" in found[0].__notes__[0]
    assert gap(found[1], alone(pipeline(), images[1], options[1], placeholder="<x>", init_word="cat")) < 2e-5


def test_concepts_may_have_placeholders_and_words_of_their_own():
    options = two()
    found = invert_many(pipeline(), [pictures(2)]*2, options, placeholder=["<x>", "<y>"], init_word=["cat", ["cat", "dog"]], progress=False)
    assert [c.tokens for c in found] == [["<x>", "<x-bonus>"], ["<y>", "<y-bonus>"]]
    assert gap(found[1], alone(pipeline(), pictures(2), options[1], placeholder="<y>", init_word=["cat", "dog"])) < 2e-5


@pytest.mark.parametrize("options, said", [
    ([dict(), dict(strategy="negative")], "strategy"), ([dict(size=16), dict(size=32)], "size"), ([dict(), dict(mixed_precision="bf16")], "mixed_precision"),
    ([dict(mixed_precision="fp16")]*2, "fp16"), ([dict(cache_latents=False)]*2, "cache_latents"), ([dict()], "images, options: 2, 1 entries"),
    ([dict(num_bonus=0, templates=("a {} and <x-bonus>",)), dict()], "token of another concept")])
@pytest.mark.filterwarnings("ignore:the template")
def test_what_cannot_be_shared_is_refused(options, said):
    with pytest.raises(ValueError, match=said): invert_many(pipeline(), [pictures(2)]*2, [Options(**o) for o in options], **TWO)

def test_concepts_that_cannot_share_a_call_are_refused():
    def concept(**more): return Concept(**dict(placeholder="<x>", tokens=["<x>"], join=",", strategy="tokens", embeddings=dict(text_encoder=torch.ones(1, 16)), family="sd", settings={}) | more)
    for other in (dict(join=" "), dict(tokens=["<x>", "<x-bonus>"]), dict(settings=dict(size=32)), dict(strategy="negative")):
        with pytest.raises(ValueError, match="draw them apart"): draw_many(pipeline(), [concept(), concept(**other)], [["a <x>"]]*2, [[0]]*2)
    with pytest.raises(ValueError, match="a seed for each prompt"): draw_many(pipeline(), [concept()], [["a <x>"]], [[0, 1]])
    with pytest.raises(ValueError, match="family"): draw_many(pipeline("pixart"), [concept()], [["a <x>"]], [[0]])


def test_a_batch_without_owners_is_refused_and_texts_are_read_once(monkeypatch):
    with Joint(pipeline(), [pictures(2)]*8, [Options(batch_size=4, seed=s, templates=("a {}", "the {}")) for s in range(8)], placeholder="<x>", init_word="cat") as joint:
        tokenizer = joint.bb.pipeline.tokenizer
        read = type(tokenizer).__mro__[2].__call__
        sizes = []
        monkeypatch.setattr(type(tokenizer).__mro__[2], "__call__", lambda self, text=None, *a, **kw: (sizes.append(len(text)), read(self, text, *a, **kw))[1])
        joint.step()
        assert sizes and max(sizes) <= 2
        monkeypatch.undo()
        joint.owners.of = joint.owners.of[:1]
        with pytest.raises(ValueError, match="have owners"): joint.bb.condition(["a <x>"]*2)
