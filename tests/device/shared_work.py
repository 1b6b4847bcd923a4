"What several processes do together, for `test_processes.py`: prints the results of all parts as JSON, from the first process."
import json
import os
import sys
from pathlib import Path

import numpy as np
from datasets import Dataset

from tokenstudy import core, lm as lms, reasoning
from tokenstudy.cdpo import methods
from tokenstudy.cdpo.critical import identify_many
from tokenstudy.tvm.policies import step_beam
from tokenstudy.tvm.training import train_verifier
from tokenstudy.tvm.verifier import TokenValueModel, score_responses

TOY = lms.tiny_lm("llama", vocab=8)
PROMPTS = [[1, 2], [3], [4, 5, 6], [2, 2], [5]]


def numbers(model): return [float(p.detach().double().sum()) for p in model.parameters()]


def sampled(): return [[s.response_ids, s.logprobs] for s in lms.sample(TOY, PROMPTS, num_samples=3, max_new_tokens=6)]


def rolled():
    made = lms.rollouts_many(TOY, [([1, 2], [3, 4, 5]), ([3], [6, 1])], num_samples=4, max_new_tokens=5, logprobs=True)
    one = lms.rollouts(TOY, [1], [3, 4, 5], num_samples=4, max_new_tokens=5)
    return [[r.tokens.tolist(), r.lengths.tolist(), r.finished.tolist()] for r in [*made, one]]


def searched(folder):
    verifier, runs = TokenValueModel.from_causal_lm(TOY, seed=1), core.Runs("tvm/shared", folder)
    how = dict(K=4, b=2, block=2, max_new_tokens=6, batch_size=1, runs=runs)
    found = step_beam(TOY, verifier, PROMPTS, **how)
    again = step_beam(TOY, verifier, PROMPTS, **how)
    return [[r.plain() for r in found], [r.plain() for r in again] == [r.plain() for r in found], len(runs)]


def scored(): return [x.tolist() for x in score_responses(TokenValueModel.from_causal_lm(TOY, seed=1), [(p, [3, 4, 5][:1 + i % 3]) for i, p in enumerate(PROMPTS)], batch_size=2)]


def identified():
    found = identify_many(TOY, [([1, 2], [4, 3, 7]), ([1], [3, 7]), ([2], [5, 3, 1])], [lambda ids: 3 not in ids]*3, num_samples=8, max_total=8)
    return [[i.index, i.correct.tolist(), i.counts.tolist(), i.tokens] for i in found]


def solved(folder):
    generator, problems = reasoning.load_generator("cpu"), reasoning.arithmetic(5, "chain", 2)
    how = dict(num_samples=3, max_new_tokens=20)
    kept = reasoning.sample_trajectories(generator, problems, **how)
    on_disk = list(reasoning.sample_trajectories(generator, problems, path=folder/"solved.sqlite", group=2, **how))
    return [[[t.problem, t.response_ids, t.correct] for t in some] for some in (kept, on_disk)]


def written(folder):
    runs, done = core.Runs("tvm/units", folder), []
    def work():
        done.append(os.getpid())
        return core.gather([i*i for i in core.share(range(7))], 7, "squares")
    return [runs(dict(unit=1), work), runs(dict(unit=1), work), len(done), len(runs)]


def verified():
    rng = np.random.default_rng(0)
    made = [reasoning.Trajectory(f"p{i//4}", [1], [*rng.integers(2, 7, 3).tolist(), 7], [0.]*4, "", correct=bool(i % 2), finished=True) for i in range(16)]
    return numbers(train_verifier(TOY, made, epochs=2, batch_size=8).model)


def preferred(processes):
    rng = np.random.default_rng(0)
    rows = [dict(prompt_ids=[1, 2], chosen_ids=[*rng.integers(2, 7, 2).tolist(), 7], rejected_ids=[*rng.integers(2, 7, 3).tolist(), 7]) for _ in range(16)]
    base = TOY._replace(tokenizer=lms.tiny_tokenizer(list("abcdef")))
    return numbers(methods.train("dpo", base, Dataset.from_list(rows), lr=1e-3, epochs=2, batch_size=8//processes, use_cpu=True).lm.model)


def main():
    processes, folder = core.launched(), Path(os.environ["SHARED_FOLDER"])
    if sys.argv[1:] == ["apart"]: core.gather([1], processes, f"place {os.environ['RANK']}")
    if sys.argv[1:] == ["different"]: score_responses(TokenValueModel.from_causal_lm(TOY), [([1], [2 + core.rank()])]*2)
    found = dict(sampled=sampled(), rolled=rolled(), searched=searched(folder), scored=scored(), identified=identified(), solved=solved(folder), written=written(folder),
                 verified=verified(), preferred=preferred(processes))
    if not core.rank(): (folder/"found.json").write_text(json.dumps(found))


if __name__ == "__main__": main()
