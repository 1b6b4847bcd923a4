"""Prompts with solved problems before them, where an answer ends, solutions as samples, fine-tuning of all weights and by LoRA."""
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from tokenstudy import lm as lms
from tokenstudy.lm import finetuning

PAIRS = [([5, 6, 7], [8, 9, 2]), ([5, 6], [10, 2]), ([11], [12, 13, 14, 2])]


def losses(lm, pairs):
    return [-float(lms.token_logprobs(lm, [p + r])[0][0, len(p):].sum()) for p, r in pairs]


@pytest.mark.parametrize("lora", (0, 2))
def test_fine_tuning_learns_the_responses_and_leaves_the_model(lora):
    lm = lms.tiny_lm()
    before = torch.cat([p.flatten() for p in lm.model.parameters()]).clone()
    taught = finetuning.fine_tune(lm, PAIRS, 8, lr=1e-2, batch_size=2, lora=lora)
    assert torch.equal(before, torch.cat([p.flatten() for p in lm.model.parameters()]))
    assert all(a < b for a, b in zip(losses(taught, PAIRS), losses(lm, PAIRS))) and not any(p.requires_grad for p in taught.model.parameters())
    again = finetuning.fine_tune(lm, PAIRS, 8, lr=1e-2, batch_size=2, lora=lora)
    for a, b in zip(taught.model.parameters(), again.model.parameters()): assert torch.equal(a, b)


def test_prompts_are_not_taught():
    "One step from the same weights: the prompt's own tokens have no part in the loss, so changing the order of a far batch row does not matter, but a response token does."
    lm = lms.tiny_lm()
    def loss_by_hand(pairs):
        rows = [(p, r, lms.token_logprobs(lm, [p + r])[0][0, len(p):]) for p, r in pairs]
        return -float(torch.cat([x for *_, x in rows]).mean())
    seen = []
    real = torch.nn.functional.cross_entropy
    def spy(logits, targets, **kw):
        seen.append((real(logits, targets, **kw).item(), targets.tolist()))
        return real(logits, targets, **kw)
    torch.nn.functional.cross_entropy = spy
    try: finetuning.fine_tune(lm, PAIRS, 1, lr=1e-9, batch_size=3)
    finally: torch.nn.functional.cross_entropy = real
    assert seen[0][0] == pytest.approx(loss_by_hand(PAIRS), abs=1e-5) and sorted(seen[0][1]) == sorted(sum((r for _, r in PAIRS), []))


def test_nothing_to_learn_is_an_error():
    with pytest.raises(ValueError, match="nothing to learn"): finetuning.fine_tune(lms.tiny_lm(), [])


def test_few_shot_blocks():
    rows = [dict(id=f"q{i}", prompt=f"{i}?", answer=str(i), solution=f"{i}.") for i in range(3)]
    made = finetuning.few_shot(Dataset.from_list(rows[:1]), rows[1:])
    assert made["prompt"][0] == "Question: 1?\nAnswer: 1.\n\nQuestion: 2?\nAnswer: 2.\n\nQuestion: 0?\nAnswer:" and made["answer"][0] == "0"


def test_a_prompt_that_merges_with_its_solution_is_refused():
    if lms.lm_status()[0]["state"] != "cached": pytest.skip("SmolLM2 is not converted here: tokenstudy models prepare")
    lm = lms.load_lm("smollm2", device="cpu", dtype="fp32")
    (prompt, response), = finetuning.lessons(lm, [dict(id="a", prompt="Question: 1?\nAnswer:", solution="one")])
    assert response[-1] in lms.eos_ids(lm) and lm.tokenizer.decode(prompt + response[:-1]) == "Question: 1?\nAnswer: one"
    with pytest.raises(ValueError, match="b: the tokens of the prompt change"): finetuning.lessons(lm, [dict(id="b", prompt="a line\n ", solution=" and more")])


def test_adapters_are_described_alike_in_every_process():
    import os
    import subprocess
    import sys
    code = "from peft import LoraConfig; from tokenstudy.lm import finetuning; print(finetuning.described(LoraConfig(r=2, target_modules=['q_proj', 'k_proj', 'v_proj', 'o_proj'])))"
    said = {subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=os.environ | dict(PYTHONHASHSEED=str(i))).stdout for i in (1, 2, 3)}
    assert len(said) == 1 and "o_proj" in said.pop()
