"What several tests of value models share: sampled solutions, tiny models, a verifier that is none of ours."
import functools
from types import SimpleNamespace

import numpy as np
import torch

from tokenstudy import lm, reasoning

NAN = float("nan")
FAMILIES, EOS = ("llama", "qwen", "gpt2", "opt"), 11
PROMPTS = [[3, 1, 4], [2, 7], [6], [5, 5, 5, 5, 1]]


def ids(text): return [ord(c) for c in text]


def made(text, correct, finished=True, answer="7", problem="p"):
    response = ids(text) if isinstance(text, str) else list(text)
    return reasoning.Trajectory(problem, [1, 2], response, [0.]*len(response), answer, bool(correct), finished)


def samples(count=24, questions=3, seed=2):
    "Solutions of a tiny model, token 7 at their ends; wrong where a token 3 is."
    drawn = lm.sample(lm.tiny_lm("llama", vocab=8), [[1, 2 + i//count] for i in range(count*questions)], max_new_tokens=5, seed=seed, temperature=1.5)
    return [reasoning.Trajectory(f"q{i//count}", list(s.prompt_ids), list(s.response_ids), [0.]*len(s.response_ids), None,
                                 bool(s.finished and 3 not in s.response_ids), bool(s.finished)) for i, s in enumerate(drawn)]


def same(a, b): return len(a) == len(b) and all(np.allclose(x, y, atol=1e-6, equal_nan=True) and len(x) == len(y) for x, y in zip(a, b))


def sampled(answer, gold, length=3): return SimpleNamespace(answer=answer, correct=answer == gold, response_ids=[1] * length, finished=True)


@functools.cache
def tiny(family, seed=0): return lm.tiny_lm(family, vocab=12, seed=seed)


class Judge(torch.nn.Module):
    "A toy verifier with a cache: the logit of one token."
    def __init__(self, family, seed=5):
        super().__init__()
        self.body = tiny(family, seed).model
    def get_input_embeddings(self): return self.body.get_input_embeddings()
    def forward(self, **inputs):
        out = self.body(**inputs)
        logits = out.logits[..., 4] / 6
        return SimpleNamespace(logits=logits, values=logits.sigmoid(), past_key_values=out.past_key_values)
