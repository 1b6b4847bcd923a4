"The embedded generator, its lessons and its training."
import numpy as np
import pytest

from tokenstudy import core, reasoning as r
from tokenstudy.reasoning import arithmetic_world as w, generator


def test_generator_is_what_it_says():
    "The embedded model: Llama, about a million parameters; correct about half the time, wrong mostly by misreading; the same with the same seed."
    model = r.load_generator()
    assert 5e5 < sum(p.numel() for p in model.model.parameters()) < 2e6 and model.model.config.model_type == "llama"
    problems = r.arithmetic(16, "chain", 3, split="test")
    rows = r.sample_trajectories(model, problems, num_samples=12)
    again = r.sample_trajectories(model, problems.select(range(8)), num_samples=12, batch_size=50)
    assert [t.response_ids for t in rows[:len(again)]] == [t.response_ids for t in again]
    share = np.mean([t.correct for t in rows])
    assert .3 < share < .9, share
    assert np.mean([t.finished for t in rows]) > .9


TINY = dict(num_steps=3, decay=1, warmup=1, batch_size=2, hidden=16, layers=1, device="cpu")


def same(a, b): return all(x.equal(y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))


def test_training_resumes_and_refuses(tmp_path):
    straight, folder = r.train_generator(**TINY), tmp_path/"g"
    r.train_generator(output_dir=folder, **TINY | dict(num_steps=2, decay=0))        # the common part
    assert same(straight, r.train_generator(output_dir=folder, **TINY))
    for change in (dict(lr=1.), dict(seed=1), dict(hidden=32), dict(warmup=2)):
        with pytest.raises(core.CheckpointError): r.train_generator(output_dir=folder, **TINY | change)
    file = next(folder.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(core.CorruptFileError): r.train_generator(output_dir=folder, **TINY)


def test_training_is_bitwise_the_plain_loop():
    "What the loop of the foundations does, written out."
    import torch
    model = generator.new_generator(16, 1, 5).train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, betas=(.9, .98), weight_decay=.01)
    for step in range(7):
        optimizer.param_groups[0]["lr"] = 2e-3*(min(1., (step + 1)/3)*min(1., (7 - step)/max(1, 2)))
        ids, labels = generator.lesson(step, 4, seed=5)
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
    trained = r.train_generator(7, 2, warmup=3, batch_size=4, hidden=16, layers=1, seed=5, device="cpu").model
    assert all(a.equal(b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))


def test_lessons_hide_the_prompt():
    "Labels are exactly the solution and the end; prompts and padding carry none."
    ids, labels = generator.lesson(4, 6)
    for row, label in zip(ids.tolist(), labels.tolist()):
        text = [r.VOCABULARY[t] for t in row if t]
        end = text.index("=") if "has" not in text else text.index("?")
        solution = [r.VOCABULARY[t] for t in label if t >= 0]
        assert text == [*text[:end + 1], *solution] and solution[-1] == "<eos>" and "<pad>" not in solution
        assert w.split_of(r.read_problem(" ".join(text[1:end + 1]))) == "train"
