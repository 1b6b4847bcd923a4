"Whoever draws has a generator of its own: Python's, numpy's and torch's are as they were, and their state decides nothing."
import random

import numpy as np
import pytest
import torch

from tokenstudy import core, lm as lms


def tiny(): return lms.tiny_lm("llama", vocab=12)


def solutions():
    from tokenstudy import reasoning
    return [reasoning.Trajectory(f"q{i // 2}", [1, 2], [3, 4 + i % 2, 11], [0.]*3, "7", bool(i % 2), True) for i in range(6)]


def intervals():
    rows = [[1, 0, 1], [0, 0, 1]]
    return core.bootstrap_interval([1, 2, 4]), core.two_way_interval(rows), core.crossed_interval(rows)


def sampled(): return [(s.response_ids, s.logprobs) for s in lms.sample(tiny(), [[1, 2], [3]], max_new_tokens=4, seed=2, num_samples=2)]
def rolled(): return lms.rollouts(tiny(), [1, 2], [3, 4], num_samples=3, max_new_tokens=4, seed=2).responses(0)


def tuned():
    model = lms.fine_tune(tiny(), [([1, 2], [3, 4, 11])]*4, 1, lr=1e-2, batch_size=2)
    return [p.detach().clone() for p in model.model.parameters()]


def problems():
    from tokenstudy import reasoning
    return [row for made in (reasoning.arithmetic(3), reasoning.distractor_problems(2, split="train")) for row in made]


def generator():
    from tokenstudy import reasoning
    return [p.clone() for p in reasoning.train_generator(2, 1, batch_size=2, hidden=16, layers=1).model.parameters()]


def trajectories():
    from tokenstudy import reasoning
    lm = lms.LM(reasoning.new_generator(hidden=16, layers=1, seed=1), reasoning.arithmetic_tokenizer(), "tiny")
    return [t.response_ids for t in reasoning.sample_trajectories(lm, reasoning.arithmetic(2), 2, max_new_tokens=5)]


def decoded():
    from tokenstudy import multidraft
    return multidraft.generate_multidraft(tiny(), multidraft.LMDraft(lms.tiny_lm("llama", vocab=12, seed=1)), [[1, 2]], max_new_tokens=4, seed=3).rows[0].response_ids


def distilled():
    from tokenstudy.multidraft import distillation
    return distillation.sample_dialogues(lms.tiny_lm(vocab=24), template=([1, 2], [22, 3], [5, 2]), rows=2, length=6, top=4)


def preferred():
    from cdpo.toys import toy
    from datasets import Dataset
    from tokenstudy import cdpo
    row = dict(prompt_ids=[1], chosen_ids=[4, 7], rejected_ids=[3, 5, 7])
    return cdpo.train("dpo", toy(), Dataset.from_list([row]*4), lr=1e-2, epochs=1, batch_size=2).curves


def judged():
    from tokenstudy import tvm
    run = tvm.train_verifier(tiny(), solutions(), "tvm", epochs=1, batch_size=2)
    return [p.clone() for p in run.model.parameters()], run.log


def searched():
    from tokenstudy import tvm
    found = tvm.step_beam(tiny(), lambda prompt, response: len(set(response))/8, [[1, 2]], K=4, b=2, block=2, max_new_tokens=4)
    return found[0].response(found[0].best)


def learned():
    from brat.toys import learn, pipeline
    return learn(pipeline("sd"), num_steps=1).embeddings


def instructed():
    from tokenstudy.brat import recipe
    world, how = recipe.draw_world(4, processes=1), dict(num_steps=1, batch_size=2)
    base = recipe.train_base("unet", *world, device="cpu", **how)
    return [p.clone() for made in (recipe.train_reader(*world, width=4, features=8, **how), recipe.train_contrast(*world, **how), base.unet) for p in made.parameters()]


def scripted():
    import tempfile
    from brat.toys import pipeline
    from tokenstudy.brat import bench
    return bench.ScriptTrainer(pipeline("sd"), bench.picture_files(tempfile.mkdtemp(), 16), init_word="cat", batch_size=1).step()


DRAWING = [intervals, sampled, rolled, tuned, problems, generator, trajectories, decoded, distilled, preferred, judged, searched, learned, instructed, scripted]


def state():
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), kind, keys.tolist(), rest, torch.get_rng_state().tolist()


def seed_all(seed): random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)


@pytest.mark.parametrize("draw", DRAWING, ids=lambda f: f.__name__)
def test_reported_global_generators_are_left_alone(draw):
    import tokenstudy.cdpo.methods                    # some libraries draw when they are imported
    seed_all(3)
    before, first = state(), draw()
    assert state() == before, "a global generator was used"
    seed_all(4)
    assert str(draw()) == str(first), "a global generator decides"


def test_reported_a_resumed_training_leaves_global_generators_alone(tmp_path):
    from tokenstudy import reasoning
    options = dict(batch_size=2, hidden=16, layers=1, output_dir=tmp_path, save_every=0.)
    seed_all(3)
    reasoning.train_generator(2, 1, **options)
    seed_all(4)
    before = state()
    assert reasoning.train_generator(3, 1, **options) and state() == before
