"What the tests of inversion share: tiny pipelines of six families, short runs, and everything that a run could leave changed."
import copy

import torch
from torch import nn

from tokenstudy.brat.pipelines import random_pipeline
from tokenstudy.brat.backbones import backbone
from tokenstudy.brat.inversion import invert


FAMILIES = ("sd", "sdxl", "pixart", "sd3", "flux", "sana")


SMALL = dict(num_inference_steps=3, output_type="pt")


def pictures(count=3):
    g = torch.Generator().manual_seed(5)
    return [torch.rand(3, 40, 36, generator=g) for _ in range(count)]


def pipeline(family="sd", **kw): return random_pipeline(family, **kw)


def learn(pipe, **kw):
    "A concept from three pictures in a few steps of two."
    return invert(pipe, pictures(), "<x>", **dict(dict(init_word="cat", num_steps=2, batch_size=2, size=32, progress=False), **kw))


def seeded(seed=0): return torch.Generator().manual_seed(seed)


def picture(pipe, concept=None, prompt="a photo of <x>", **kw):
    "A picture as a tensor, through a concept or by the pipeline alone."
    kw = SMALL | dict(generator=seeded()) | kw
    if concept is not None: return torch.as_tensor(concept.generate(pipe, prompt, **kw))
    bb = backbone(pipe, 32)
    return torch.as_tensor(pipe(prompt, **dict(height=32, width=32) | bb.call_options | kw).images)


def whole_state(pipe):
    "Everything of a pipeline that an inversion could leave changed. (transformers hooks its encoders at their first call and keeps that: call them.)"
    with torch.no_grad(): backbone(pipe, 32).condition(["a photo"])
    parts = {k: v for k, v in vars(pipe).items() if isinstance(v, nn.Module)}
    return dict(
        weights={f"{k}.{n}": t.clone() for k, part in parts.items() for n, t in part.state_dict().items()},
        flags={f"{k}.{n}": p.requires_grad for k, part in parts.items() for n, p in part.named_parameters()},
        modes={f"{k}.{n}": m.training for k, part in parts.items() for n, m in part.named_modules()},
        classes={f"{k}.{n}": type(m) for k, part in parts.items() for n, m in part.named_modules()},
        hooks={f"{k}.{n}": (len(m._forward_hooks), len(m._forward_pre_hooks)) for k, part in parts.items() for n, m in part.named_modules()},
        others={k: v for k, v in vars(pipe).items() if not isinstance(v, nn.Module)},
        words={k: v.get_vocab() for k, v in vars(pipe).items() if hasattr(v, "get_vocab")},
        times=copy.deepcopy(vars(pipe.scheduler).get("timesteps")))


def changes(before, after):
    "The names of what differs between two states."
    found = [name for name in before["weights"].keys() | after["weights"].keys()
             if name not in before["weights"] or name not in after["weights"] or not torch.equal(before["weights"][name], after["weights"][name])]
    if (before["times"] is None) != (after["times"] is None) or before["times"] is not None and not torch.equal(before["times"], after["times"]): found.append("times")
    return found + [key for key in ("flags", "modes", "classes", "hooks", "others", "words") if before[key] != after[key]]


def same(a, b, atol=0.):
    return all(torch.allclose(a.embeddings[slot], b.embeddings[slot], rtol=0, atol=atol) for slot in a.embeddings)


RUN = dict(num_steps=6, batch_size=2, save_every=2, lr_schedule="cosine", weight_decay=.01, validation_prompts=["a <x>"], validation_every=2, flip=True, validation_options=dict(num_inference_steps=2))
