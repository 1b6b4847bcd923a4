"What several tests of this folder train: a tiny random Llama over words, ragged pairs of random ids, a trainer on them."
import copy
import math

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig

from tokenstudy.cdpo.trainer import TokenWeightedDPOConfig, TokenWeightedDPOTrainer
from tokenstudy.cdpo.pairs import TokenWeightedCollator, WEIGHTS, word_lm


THREE = [dict(prompt="7 - 9 * 3 =", chosen=" 7 - 9 = 8 ; 8 * 3 = 4", rejected=" 7 + 9 = 6 ; 6 * 3 = 8"),
         dict(prompt="2 * 4 + 5 =", chosen=" 2 * 4 = 8 ; 8 + 5 = 3", rejected=" 2 * 4 = 8 ; 8 - 5 = 3"),
         dict(prompt="6 + 6 =", chosen=" 6 + 6 = 2", rejected=" 6 - 6 = 0")]


WORDS = [text for row in THREE for text in row.values()]


def toy(seed=0): return word_lm(WORDS, hidden=16, layers=1, context=64, seed=seed)


def pairs(count=8, seed=0, weights=True, longest=7):
    "Random ids, ragged; responses end with EOS (2); weights on both sides are random."
    g, rows = np.random.default_rng(seed), []
    for i in range(count):
        def response(): return [int(t) for t in g.integers(4, 17, g.integers(2, longest))] + [2]
        row = dict(prompt_ids=[1] + [int(t) for t in g.integers(4, 17, g.integers(1, 5))], chosen_ids=response(), rejected_ids=response() + [4, 2])
        if weights: row |= dict(chosen_weights=g.random(len(row["chosen_ids"])).tolist(), rejected_weights=g.random(len(row["rejected_ids"])).tolist())
        rows.append(row)
    return Dataset.from_list(rows)


def trainer(out, data=None, model=None, ref=None, make=TokenWeightedDPOTrainer, config=TokenWeightedDPOConfig, peft=None, callbacks=None, **kw):
    base = toy()
    # the machine's own settings, so that TRL's defaults do not decide
    kw = dict(dict(use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, save_strategy="no", learning_rate=1e-2, beta=.7,
                   per_device_train_batch_size=4, max_steps=2, logging_steps=1, lr_scheduler_type="constant"), **kw)
    if config is DPOConfig: kw["activation_checkpointing"] = False
    made = make(copy.deepcopy(base.model) if model is None else model, ref_model=ref, args=config(str(out), **kw),
                train_dataset=pairs() if data is None else data, processing_class=base.tokenizer, peft_config=peft, callbacks=callbacks)
    made.remove_callback(PrinterCallback)
    return made


def batch_of(data, **kw): return TokenWeightedCollator(pad_token_id=0, **kw)(list(data))


def grads(model): return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def state(model): return torch.cat([p.detach().flatten() for p in model.parameters()])


def ones(data, side="rejected"): return data.remove_columns([k for k in WEIGHTS if k in data.column_names]).add_column(
    f"{side}_weights", [[1.]*len(r) for r in data[f"{side}_ids"]])


def with_weights(change):
    rows = [dict(row) for row in pairs(3)]
    change(rows[1])
    return Dataset.from_list(rows)
