"The bench beside diffusers' script."
import sys
from types import SimpleNamespace

import pytest
import torch
from tokenstudy.brat import bench
from tokenstudy.brat.bench import contestant, memory, rows



def test_bench_peer_restores_the_other_rows_and_ours_never_touches_them(tmp_path):
    script, ours = contestant("script", "unet", tmp_path, batch_size=2), contestant("ours", "unet", tmp_path, batch_size=2)
    frozen = ours.bb.encoders["text_encoder"][1].get_input_embeddings().weight.detach().clone()
    for trainer in (script, ours): trainer.step()
    others = torch.arange(len(script.table)) != script.token
    assert torch.equal(script.table[others], script.original[others]) and not torch.equal(script.table[script.token], script.original[script.token])
    assert torch.equal(ours.bb.encoders["text_encoder"][1].get_input_embeddings().weight, frozen)
    ours.__exit__(None, None, None)

def test_bench_rows_have_their_fields(monkeypatch):
    monkeypatch.setattr(bench, "memory", lambda which, *args, **kw: 1. if which == "ours" else 2.)
    found = list(rows(("unet",), runs=1, compiled=False))
    assert [r["name"] for r in found] == ["step_vs_diffusers", "memory_vs_diffusers"] and found[0]["goal"] == 1.2 and found[1]["ratio"] == 2

@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts the memory")
def test_bench_memory_is_what_a_step_needs(tmp_path):
    assert 1 < memory("ours", "unet", tmp_path, num_steps=1) < 2000


def test_bench_memory_on_a_card_is_what_torch_allocates_there(monkeypatch, tmp_path):
    "Waited for and reset before the steps, waited for after them; the row says so."
    calls, card = [], torch.device("cuda")
    trainer = SimpleNamespace(step=lambda: calls.append("step"))
    monkeypatch.setattr(bench, "contestant", lambda *a, **kw: trainer)
    monkeypatch.setattr(bench.core, "device", lambda device=None: card)
    for name, value in dict(synchronize=None, reset_peak_memory_stats=None, memory_allocated=2**20, max_memory_allocated=5*2**20).items():
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name, value=value: (calls.append(name), value)[1])
    assert bench.measured_growth("ours", "unet", tmp_path, num_steps=2, threads=torch.get_num_threads()) == 4
    assert calls == ["synchronize", "reset_peak_memory_stats", "memory_allocated", "step", "step", "synchronize", "max_memory_allocated"]
    monkeypatch.setattr(bench, "memory", lambda which, *args, **kw: 1. if which == "ours" else 2.)
    monkeypatch.setattr(bench.core, "race", lambda *a, **kw: (1., 1.))
    monkeypatch.setattr(bench, "contestant", lambda *a, **kw: SimpleNamespace(step=None, __exit__=lambda *e: None))
    assert [r["unit"] for r in bench._raced("unet", tmp_path, 1, False)] == ["steps/s", "MiB on the card"]

def test_bench_row_of_short_prompts():
    "Ours beside ours with all of the padding; no script and no memory in that row."
    [row] = rows(("transformer",), runs=1, compiled=False)
    assert row["name"] == "step_vs_padded_transformer" and row["peer_name"] == "prompts of 120 tokens" and row["ratio"] == pytest.approx(row["ours"]/row["peer"])


def test_bad_arguments_of_the_bench():
    with pytest.raises(ValueError, match="pipelines holds 'vae'"): list(rows(("vae",)))
