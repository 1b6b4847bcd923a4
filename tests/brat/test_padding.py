"Pipelines that mask padding are given no more of it than they need; nothing changes by that, and it is not done where something would."
import pytest
import torch
from brat.toys import learn, pictures, picture, pipeline, same

from tokenstudy.brat.bases import load_base
from tokenstudy.brat.captions import CAPTION_TEMPLATES
from tokenstudy.brat.backbones import Backbone, backbone
from tokenstudy.brat.strategies import Options
from tokenstudy.brat.inversion import Trainer


def losses(pipe, word, full, steps=6, **kw):
    "Losses and rows of some steps, with prompts as short as they can be or as long as the pipeline has them."
    with Trainer(pipe, pictures(), "<x>", word, Options(batch_size=3, **kw)) as trainer:
        short = trainer.length
        if full: trainer.length = None
        shapes = trainer._condition(["a <x>"])["encoder_hidden_states"].shape
        return torch.tensor([trainer.step()["loss"] for _ in range(steps)]), {k: r.detach().clone() for k, r in trainer.rows.items()}, short, shapes[1]


@pytest.mark.parametrize("family, whole", [("pixart", 120), ("sana", 300), ("transformer", 120)])
@pytest.mark.parametrize("options", [dict(), dict(num_bonus=3), dict(strategy="negative")], ids=["pair", "four", "negative"])
def test_reported_short_prompts_learn_the_same(family, whole, options):
    make, word, how = (lambda: pipeline(family)), "cat", dict(size=32, **options)
    if family == "transformer": make, word, how = (lambda: load_base("transformer", "cpu")), "creature", dict(templates=CAPTION_TEMPLATES, lr=.01, **options)
    (short, rows, length, seen), (full, others, _, padded) = (losses(make(), word, f, **how) for f in (False, True))
    assert seen == length < 40 and padded == whole
    assert (short - full)[0].abs() < 5e-7 and (short - full).abs().max() < 5e-5 and all((rows[k] - others[k]).abs().max() < 2e-5 for k in rows)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux"])
def test_reported_pipelines_that_read_padding_keep_all_of_it(family):
    "Cut the padding away by hand and the prediction is another one: so `longest` says that it cannot be done."
    bb = backbone(pipeline(family), 32)
    condition, noisy = bb.condition(["a photo of a cat"]), torch.randn(1, 4, 16, 16, generator=torch.manual_seed(0))
    cut = condition | dict(encoder_hidden_states=condition["encoder_hidden_states"][:, :7])
    with torch.no_grad(): one, other = (bb.predict(noisy, torch.tensor([500]), c) for c in (condition, cut))
    assert bb.longest(["a photo of a cat"]) is None and (one - other).abs().max() > 1e-4
    assert torch.equal(bb.padded(["a cat"], 5)["encoder_hidden_states"], bb.condition(["a cat"])["encoder_hidden_states"])


def lengths_seen(pipe, concept, **kw):
    "A picture, and how long the prompts were that the denoiser saw."
    lengths, hook = set(), pipe.transformer.register_forward_pre_hook(lambda m, args, kw: lengths.add(kw["encoder_hidden_states"].shape[1]), with_kwargs=True)
    try: return picture(pipe, concept, **kw), lengths
    finally: hook.remove()


@pytest.mark.parametrize("family, whole", [("pixart", 120), ("sana", 300)])
@pytest.mark.parametrize("strategy", ["tokens", "blocks", "negative"])
def test_reported_drawing_pads_as_the_pipeline_does(family, whole, strategy):
    "So that it is the pipeline's own picture, bit for bit; who asks for another length gets it, in every block."
    pipe = pipeline(family)
    concept = learn(pipe, strategy=strategy, blocks=3, lr=.3, num_steps=3)
    (usual, many), (asked, few) = lengths_seen(pipe, concept), lengths_seen(pipe, concept, max_sequence_length=40)
    assert many == {whole} and few == {40} and (asked - usual).abs().max() < 1e-4
