"""What models need, computed from configurations, beside the bytes that torch keeps, allocates and saves."""
import functools
import weakref
from types import SimpleNamespace

import pytest
import torch
import transformers as tf
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tokenstudy import core, lm as lms
from tokenstudy.lm import finetuning, memory

ROWS, LENGTH, RANK = 2, 101, 8
SIZES = dict(vocab_size=64, bos_token_id=0, eos_token_id=1, pad_token_id=0, max_position_embeddings=256)
#: families at about a quarter of a public model's width, with its shape of heads
FAMILIES = dict(
    llama=lambda L: tf.LlamaConfig(hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3, num_hidden_layers=L, tie_word_embeddings=True, **SIZES),
    mistral=lambda L: tf.MistralConfig(hidden_size=1024, intermediate_size=3584, num_attention_heads=8, num_key_value_heads=2, num_hidden_layers=L, **SIZES),
    qwen2=lambda L: tf.Qwen2Config(hidden_size=448, intermediate_size=2432, num_attention_heads=7, num_key_value_heads=1, num_hidden_layers=L, **SIZES),
    gpt2=lambda L: tf.GPT2Config(n_embd=384, n_layer=L, n_head=6, n_positions=256, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **{k: v for k, v in SIZES.items() if "position" not in k}),
    opt=lambda L: tf.OPTConfig(hidden_size=320, word_embed_proj_dim=320, ffn_dim=1280, num_attention_heads=5, num_hidden_layers=L, dropout=0, **SIZES))


class Alive(TorchDispatchMode):
    "Counts the bytes of all storages that operations make, now and at most. `known` models' storages are not counted."
    def __init__(self, *known):
        super().__init__()
        self.now, self.most = 0, 0
        self.seen = {x.untyped_storage()._cdata for m in known for x in [*m.parameters(), *m.buffers()]}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor): self.note(x.untyped_storage())
        return out

    def note(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen: return
        self.seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.gone, key, size)

    def gone(self, key, size):
        self.seen.discard(key)
        self.now -= size


def made(family, layers, half, lora, checkpointing=False):
    "A model that learns as `fine_tune` makes it learn."
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tf.AutoModelForCausalLM.from_config(FAMILIES[family](layers))
    if half: model = model.bfloat16()
    model = finetuning.learner(model, finetuning._lora(lora))
    if checkpointing: model.activation_checkpointing_enable(dict(use_reentrant=False))
    return model


def batch(padded):
    ids = torch.randint(2, 60, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    if padded: mask[0, -9:] = 0
    return dict(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)


def saved(model, half, padded):
    "Bytes that a forward pass saves: each storage once, no weights, and not their copies in half precision, which stand in `Parameters`."
    own = {x.untyped_storage().data_ptr() for x in [*model.parameters(), *model.buffers()]}
    weights = {frozenset(p.shape) for p in model.parameters() if p.dim() == 2}
    kept, copies = {}, {}
    def keep(x):
        where = x.untyped_storage()
        if where.data_ptr() not in own: (copies if frozenset(x.shape) in weights and x.dim() == 2 else kept)[where.data_ptr()] = (where.nbytes(), x)
        return x
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), core.autocast("cpu", "bf16" if half else "fp32"): out = model(**batch(padded))
    assert torch.isfinite(out.logits).all()
    return sum(n for n, _ in kept.values()), sum(n for n, _ in copies.values())


@functools.lru_cache
def of_a_layer(family, half, lora, padded):
    "Bytes that one more layer saves for each token, and bytes of its copies of weights."
    one, two = (saved(made(family, layers, half, lora), half, padded) for layers in (1, 2))
    return (two[0] - one[0])/(ROWS*LENGTH), two[1] - one[1]


SETTINGS = [(False, 0, True), (False, RANK, False), (True, 0, False), (True, RANK, True), (True, 0, True)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("half, lora, padded", SETTINGS)
def test_what_a_layer_keeps(family, half, lora, padded):
    measured, _ = of_a_layer(family, half, lora, padded)
    terms = memory.layer_terms(FAMILIES[family](2), dtype="bf16" if half else "fp32", lora=lora, padded=LENGTH*padded)
    computed = sum(terms.values())
    assert computed == pytest.approx(measured, rel=.01), (terms, measured)


@pytest.mark.parametrize("half", (False, True))
@pytest.mark.parametrize("name", ("norms", "inputs of linear layers", "attention", "feed-forward"))
def test_a_term_that_is_left_out_is_found(name, half, monkeypatch):
    real = memory.layer_terms
    monkeypatch.setattr(memory, "layer_terms", lambda *args, **kw: {k: v for k, v in real(*args, **kw).items() if k != name})
    with pytest.raises(AssertionError): test_what_a_layer_keeps("llama", half, 0, False)


@pytest.mark.parametrize("lora", (0, RANK))
def test_copies_of_weights_under_autocast(lora):
    _, measured = of_a_layer("mistral", True, lora, False)
    one, two = (memory.training_needs(FAMILIES["mistral"](layers), 1, dtype="bf16", lora=lora).parts["copies in half precision"] for layers in (1, 2))
    if lora: assert two - one == 2*RANK*(2*(1024 + 1024) + 2*(1024 + 256) + 3*(1024 + 3584))
    else: assert measured == pytest.approx(two - one, rel=.01)


def step_peak(model, loss, half):
    "Most bytes above the model's own while a second step of AdamW is made, from the beginning of the forward pass."
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, 1e-4, foreach=True)
    def step():
        with core.autocast("cpu", "bf16" if half else "fp32"): value = loss(model)
        value.backward(); del value
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    step()                                     # gradients and moments are there now
    with Alive(model) as seen:
        for p in learning: seen.seen.add(p.grad.untyped_storage()._cdata)
        for state in optimizer.state.values(): seen.seen |= {x.untyped_storage()._cdata for x in state.values()}
        step()
    return seen.most


def pairs():
    rng = torch.Generator().manual_seed(2)
    ids = [torch.randint(2, 60, (LENGTH,), generator=rng).tolist() for _ in range(ROWS)]
    return [(row[:41], row[41:]) for row in ids]


WIDE = 8000                                    # a vocabulary whose logits matter


@pytest.mark.parametrize("family, half, lora, checkpointing, vocab", [
    ("llama", False, 0, False, 64), ("llama", True, 0, False, WIDE), ("llama", True, RANK, True, WIDE), ("llama", True, 0, True, 64), ("mistral", True, RANK, True, 64), ("mistral", True, RANK, False, 64),
    ("gpt2", False, 0, False, WIDE), ("gpt2", True, RANK, False, WIDE), ("opt", True, 0, False, WIDE), ("qwen2", True, RANK, False, WIDE)])
def test_the_peak_of_a_step(family, half, lora, checkpointing, vocab, monkeypatch):
    "Activations, logits and what else comes and goes, against every storage that a step makes."
    monkeypatch.setitem(SIZES, "vocab_size", vocab)
    model = made(family, 3, half, lora, checkpointing)
    measured = step_peak(model, lambda m: finetuning.response_loss(m, pairs()), half)
    needs = memory.training_needs(FAMILIES[family](3), ROWS*LENGTH, response_tokens=ROWS*60, dtype="bf16" if half else "fp32", lora=lora, checkpointing=checkpointing)
    there = ("weights", "weights that learn", "a copy of the weights", "adapters", "gradients", "Adam's moments")
    computed = {name: n for name, n in needs.parts.items() if name not in there}
    print(family, half, lora, checkpointing, vocab, round(sum(computed.values())/measured, 3))
    assert sum(computed.values()) == pytest.approx(measured, rel=.1), computed


@pytest.mark.parametrize("lora", (0, 2))
def test_a_training_with_checkpointing_is_the_same(lora):
    lm, some = lms.tiny_lm(), pairs()[:1] + [([3, 1], [4, 1, 5])]
    some = [([t % 32 for t in p][:9], [t % 32 for t in r][:7]) for p, r in some]
    plain, again = (finetuning.fine_tune(lm, some, 3, lr=1e-2, lora=lora, gradient_checkpointing=on) for on in (None, True))
    for a, b in zip(plain.model.parameters(), again.model.parameters()): torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert not again.model.is_activation_checkpointing


def test_a_verifier_with_checkpointing_is_the_same():
    from tokenstudy import reasoning
    from tokenstudy.tvm.training import train_verifier
    some = [reasoning.Trajectory(p, [1, 2], [3, n, 7], [0.]*3, "7", correct=n > 3, finished=True) for p in "ab" for n in (2, 4, 5)]
    plain, again = (train_verifier(lms.tiny_lm("llama", vocab=8), some, epochs=2, gradient_checkpointing=on).model for on in (None, True))
    for a, b in zip(plain.parameters(), again.parameters()): torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert not again.lm.is_activation_checkpointing


def test_checkpointing_keeps_little(monkeypatch):
    "The switch has an effect: less stands at the peak."
    peaks = [step_peak(made("llama", 3, False, RANK, on), lambda m: finetuning.response_loss(m, pairs()), False) for on in (False, True)]
    assert peaks[1] < .6*peaks[0]


def test_optimizer_bytes():
    lm = lms.tiny_lm()
    optimizer = torch.optim.AdamW(lm.model.float().parameters())
    for p in lm.model.parameters(): p.grad = torch.ones_like(p)
    optimizer.step()
    moments = sum(x.numel()*x.element_size() for state in optimizer.state.values() for name, x in state.items() if name != "step")
    needs = memory.training_needs(lm, 10, dtype="bf16")
    assert needs.parts["Adam's moments"] == moments and needs.parts["gradients"] == sum(4*p.numel() for p in lm.model.parameters())
    assert needs.parts["weights"] == sum(2*p.numel() for p in lm.model.parameters())


@pytest.mark.parametrize("family", ("llama", "gpt2", "opt", "qwen"))
def test_parameters_of_adapters(family):
    lm = lms.tiny_lm(family)
    adapted = finetuning.learner(lm.model, finetuning._lora(3))
    learning = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert memory.training_needs(lm, 10, dtype="bf16", lora=3).parts["adapters"] == 4*learning
    assert memory.count_parameters(lm).total == sum(p.numel() for p in lm.model.parameters())


def test_published_numbers_of_parameters():
    known = {"meta-llama/Meta-Llama-3-8B": 8_030_261_248, "mistralai/Mistral-7B-v0.1": 7_241_732_096, "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008, "facebook/opt-125m": 125_239_296}
    for name, number in known.items(): assert memory.count_parameters(name).total == number
    assert memory.count_parameters("facebook/opt-13b").total/1e9 == pytest.approx(12.85, abs=.01) and memory.count_parameters("deepseek-ai/deepseek-math-7b-base").total/1e9 == pytest.approx(6.91, abs=.01)


def test_the_cache_of_sampling():
    lm = lms.tiny_lm("llama", vocab=32)
    ids = torch.ones(3, 7, dtype=torch.long)
    out = lms.forward(lm.model, ids, ids.bool(), logits_to_keep=1)
    cached = sum(x.numel()*x.element_size() for layer in out.past_key_values.layers for x in (layer.keys, layer.values))
    assert memory.sampling_needs(lm, 3, 7, dtype="fp32").parts["keys and values"] == pytest.approx(cached*3/2) and out.logits.shape[1] == 1   # two layers, and one that grows
    with pytest.raises(ValueError, match="prompt_tokens"): memory.sampling_needs(lm, 3, 7, prompt_tokens=8)


def test_configurations(tmp_path):
    folder = tmp_path/"model"
    lms.tiny_lm().model.config.save_pretrained(folder)
    assert memory.config_of(str(folder)).hidden_size == 32 and memory.config_of("smollm2").hidden_size == 576
    (tmp_path/"empty").mkdir()
    with pytest.raises(core.MissingModelError, match="no config.json"): memory.config_of(str(tmp_path/"empty"))
    with pytest.raises(ValueError, match="give an LM"): memory.config_of(3)
    with pytest.raises(ValueError, match="no formulas for the family 'gpt_neo'"): memory.layer_terms(tf.GPTNeoConfig())


class Card:
    "torch.cuda as one card of 80 GB would show it."
    def __init__(self, monkeypatch, total=80e9):
        monkeypatch.setattr(core.scales, "device", lambda override=None: torch.device(override or "cuda"))
        monkeypatch.setattr(core, "device", core.scales.device, raising=False)
        for name, value in dict(mem_get_info=(10e9, total), memory_reserved=30e9, memory_allocated=12e9, get_device_properties=SimpleNamespace(total_memory=total)).items():
            monkeypatch.setattr(torch.cuda, name, lambda place, value=value: value)


def test_what_fits_does_not_depend_on_what_stands_there(monkeypatch):
    Card(monkeypatch)
    assert core.available_memory("cuda") == 28e9 and core.total_memory("cuda") == 80e9
    def needs(n): return memory.verifier_needs("mistralai/Mistral-7B-v0.1", n, dtype="bf16", lora=64)
    tokens = memory.fitting_batch(needs, 16_384)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda place: 29e9)
    assert memory.fitting_batch(needs, 16_384) == tokens == memory.fitting_batch(needs, 16_384, 80e9) and needs(tokens).total <= 72e9 < needs(tokens + 1).total
    with pytest.raises(core.MissingModelError, match="can be planned with"): memory.fitting_batch(needs, 10, 14e9)


def test_checkpointing_where_it_decides(monkeypatch):
    Card(monkeypatch)
    def needs(on): return memory.verifier_needs("mistralai/Mistral-7B-v0.1", 16_384, dtype="bf16", lora=64, checkpointing=on)
    assert memory.needs_checkpointing(needs, "cuda") and memory.fits(needs(True), 80e9)
    assert not memory.needs_checkpointing(lambda on: memory.verifier_needs("smollm2", 16_384, dtype="bf16", checkpointing=on), "cuda")
    assert not memory.needs_checkpointing(needs, "cpu")


def test_required_memory_as_needs():
    lms.require_memory(memory.Needs("a toy", {"weights": 1e6}), device="cpu")
    with pytest.raises(core.MissingModelError, match="a giant needs about 9000000 GB on cpu"): lms.require_memory(memory.Needs("a giant", {"weights": 9e15}), device="cpu")


def test_trainers_ask_what_fits(monkeypatch):
    from tokenstudy.tvm import training
    Card(monkeypatch)
    large = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, config=memory.config_of("mistralai/Mistral-7B-v0.1"))
    answers = [[([1]*500, [2]*1500)]*16, [([1]*5, [2]*15)]*16]
    assert finetuning._has_no_room(large, 64, iter(answers)) and not finetuning._has_no_room(large, 64, iter(answers[1:]))
    some = SimpleNamespace(ids=[[1]*1000]*40, lead=[500]*40)
    settings = dict(micro_tokens=16_384, lm_weight=.1, precision="bf16")
    assert training._has_no_room(large, some, settings, SimpleNamespace(r=64)) and not training._has_no_room(large, some, settings | dict(micro_tokens=1000), SimpleNamespace(r=64))


@pytest.mark.parametrize("prompt, new, vocab", [(108, 20, 64), (8, 120, 40_000)])
@pytest.mark.parametrize("kind", ("fp32", "bf16"))
def test_the_peak_of_sampling(prompt, new, vocab, kind, monkeypatch):
    "What the queue makes at most is no more than computed, and not much less: long prompts, and many logits."
    from tokenstudy.lm import plans
    monkeypatch.setitem(SIZES, "vocab_size", vocab)
    model = tf.AutoModelForCausalLM.from_config(FAMILIES["llama"](2)).to(core.dtype(kind)).eval()
    lm, texts = lms.LM(model, None, "quarter"), [[2 + (i + j) % 50 for j in range(prompt)] for i in range(16)]
    lms.sample(lm, texts[:1], max_new_tokens=1)      # tries the model out
    monkeypatch.setattr(lms.queue, "eos_ids", lambda lm: {-1})
    with Alive(model) as seen: lms.sample(lm, texts, max_new_tokens=min(new, 6), batch_size=16)
    computed = {name: n for name, n in plans._texts("texts", lm, prompt, min(new, 6), kind).needs(16).parts.items() if name != "weights"}
    assert seen.most <= sum(computed.values()) <= 2*seen.most, computed
