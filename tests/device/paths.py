"""The paths that are run on the CPU and then on a pretend card: each check makes its models anew, so that `core.device()` says where they go, and
returns what has to be the same. Models that come without a device are `put` there."""
import copy
import numbers
import tempfile

import numpy as np
import torch

import pretend
from tokenstudy import core, lm as lms, reasoning

AREAS = {}


def path(area: str, rounding: float = 2e-3):
    "A check of an area, and how far its numbers may be from those of the CPU, relatively."
    def note(check):
        AREAS.setdefault(area, {})[check.__name__] = check
        check.rounding = rounding
        return check
    return note


def put(thing):
    "A model, or what holds one, on the device in force."
    (thing.model if hasattr(thing, "model") else thing).to(core.device())
    return thing


def plain(value):
    "What is compared: nested lists of numbers and texts."
    if isinstance(value, torch.Tensor): return plain(value.detach().float().cpu().numpy() if value.is_floating_point() else value.cpu().numpy())
    if isinstance(value, np.ndarray): return value.tolist()
    if isinstance(value, dict): return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)): return [plain(v) for v in (sorted(value) if isinstance(value, set) else value)]
    if hasattr(value, "__dataclass_fields__"): return {k: plain(getattr(value, k)) for k in value.__dataclass_fields__}
    return value if isinstance(value, (numbers.Number, str, type(None))) else str(type(value))


def unequal(a, b, place="", rounding=2e-3) -> str:
    "Where two plain values differ, by more than rounding."
    if isinstance(a, dict) and isinstance(b, dict):
        return next((found for k in a.keys() | b.keys() if (found := unequal(a.get(k), b.get(k), f"{place}.{k}", rounding))), "")
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b): return f"{place}: {len(a)} and {len(b)} parts"
        return next((found for i, (x, y) in enumerate(zip(a, b)) if (found := unequal(x, y, f"{place}[{i}]", rounding))), "")
    if isinstance(a, float) and isinstance(b, (float, int)):
        return "" if a == b or (a != a and b != b) or abs(a - b) <= rounding*(.1 + abs(a)) else f"{place}: {a} and {b}"
    return "" if a == b else f"{place}: {a!r} and {b!r}"


def both(check) -> dict:
    "Run a check on the CPU and on the card; AssertionError where they differ, or where nothing was computed on the card."
    from accelerate.state import AcceleratorState
    torch.manual_seed(0)
    here = plain(check())
    AcceleratorState._reset_state(True)
    with pretend.card() as seen:
        torch.manual_seed(0)
        there = plain(check())
        found = dict(waits=dict(seen.waits), sends=dict(seen.sends), operations=seen.operations)
    AcceleratorState._reset_state(True)
    if differs := unequal(here, there, "", check.rounding): raise AssertionError(f"not as on the CPU: {differs}")
    if not found["operations"]: raise AssertionError("nothing was computed on the card")
    return found


def tiny(family="llama", vocab=40, seed=1): return put(lms.tiny_lm(family, vocab, seed))
def generator(): return reasoning.load_generator()


PROMPTS, PAIRS = [[3, 1, 4], [5], [2, 6]], [([3, 1, 4], [1, 5, 9, 2]), ([2], [7, 3])]


# ---- lm

@path("lm")
def sample(): return [lms.sample(tiny(f), PROMPTS, max_new_tokens=6, num_samples=2, batch_size=4) for f in ("llama", "gpt2", "opt")]
@path("lm")
def sample_greedy(): return lms.sample(tiny(), PROMPTS, max_new_tokens=6, temperature=0)
@path("lm")
def sample_top_k_top_p(): return lms.sample(tiny(vocab=300), PROMPTS, max_new_tokens=6, top_k=50, top_p=.9, temperature=1.3)
@path("lm")
def token_logprobs(): return lms.token_logprobs(tiny(), PROMPTS, top_k=20)
@path("lm")
def sequence_logits(): return lms.sequence_logits(tiny("qwen"), [3, 1, 4])


@path("lm")
def cached_model():
    reader = lms.CachedModel(lms.packed(tiny()), 2)
    first = reader.extend([[3, 1, 4], [1, 5]])
    more = reader.extend([[7, 8, 9], [6, 2]], parents=[[-1, 0, 0], [-1, -1]])
    reader.commit([[0, 2], [1]])
    reader.select([1, 0])
    return first, more, reader.extend([[2], [3]])


@path("lm")
def rollouts_many():
    lm = tiny()
    trunks = [lms.Trunk(lm, *pair) for pair in PAIRS]
    made = lms.rollouts_many(lm, trunks, num_samples=4, max_new_tokens=5, logprobs=True, banned=[{2: [3, 4]}, None])
    return [(r.tokens, r.logprobs, r.lengths) for r in made]
@path("lm")
def rollouts_in_waves():
    made = lms.rollouts_many(tiny(), PAIRS, num_samples=3, max_total=8, batch_size=4, top_p=.9, temperature=.8)
    return [r.tokens for r in made]


@path("lm")
def fine_tune():
    lm = tiny()
    some = [([3, 1], [4, 39]), ([5], [6, 2, 39]), ([7, 7], [8, 39])]
    whole, adapted = lms.fine_tune(lm, some, 2, lr=1e-2, batch_size=2), lms.fine_tune(lm, some, 2, lr=1e-2, batch_size=2, lora=2)
    return [lms.sequence_logits(m, [3, 1, 4]) for m in (whole, adapted)]


@path("lm")
def fine_tune_resumes():
    some, where = [([3, 1], [4, 39]), ([5], [6, 2, 39])], tempfile.mkdtemp()
    how = dict(lr=1e-2, batch_size=1, output_dir=where, save_every=0)
    lms.fine_tune(tiny(), some, 2, **how)
    return lms.sequence_logits(lms.fine_tune(tiny(), some, 2, **how), [3, 1, 4])


@path("lm")
def half_precision():
    lm = tiny()
    lm.model.to(torch.bfloat16)
    made = lms.sample(lm, PROMPTS, max_new_tokens=4)
    lms.rollouts_many(lm, PAIRS, num_samples=3, max_new_tokens=4)
    tuned = lms.fine_tune(lm, [([3, 1], [4, 39])], 2, lr=1e-2)
    assert next(tuned.model.parameters()).dtype is torch.float32
    return [len(s.response_ids) for s in made]


@path("lm")
def written_and_read_again():
    lm, where = tiny(), tempfile.mkdtemp()
    lm.model.resize_token_embeddings(43)
    lm.model.save_pretrained(where)
    from transformers import AutoModelForCausalLM
    again = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32).to(core.device())
    ids = torch.tensor([[3, 1, 4]], device=core.device())
    return torch.equal(lm.model(ids).logits, again(ids).logits), tuple(again(ids).logits.shape)


# ---- reasoning

@path("reasoning")
def sample_trajectories():
    problems = reasoning.arithmetic(3, "chain", 2)
    return reasoning.sample_trajectories(generator(), problems, 4, max_new_tokens=40)


@path("reasoning")
def train_generator():
    where = tempfile.mkdtemp()
    how = dict(batch_size=4, hidden=16, layers=1, warmup=2)
    straight = reasoning.train_generator(6, 4, output_dir=where, save_every=0, **how)
    resumed = reasoning.train_generator(6, 4, output_dir=where, save_every=0, **how)
    return [lms.sequence_logits(m, [3, 1, 4]) for m in (straight, resumed)]


# ---- multidraft

SCHEMES = ("optimal", "truncated-lp", "spec-tr", "spec-infer", "naive-lookup", "block", "traversal", "leaf-to-root")


def pair(): return tiny(vocab=12), tiny(vocab=12, seed=2)


def lengths(rows):
    "On a card other numbers draw tokens of the same distribution (`test_received.py`), so the tokens themselves differ."
    return [(row.prompt_ids, len(row.response_ids), row.finished) for row in rows]


@path("multidraft")
def schemes():
    from tokenstudy.multidraft import LMDraft, generate_multidraft
    target, draft = pair()
    return [lengths(generate_multidraft(target, LMDraft(draft), [[1, 2], [3]], scheme=scheme, K=1 if scheme == "block" else 3, L=3, max_new_tokens=6, ends=()).rows)
            for scheme in SCHEMES]


@path("multidraft")
def warped():
    from tokenstudy.multidraft import LMDraft, generate_multidraft
    target, draft = pair()
    return generate_multidraft(target, LMDraft(draft, top_k=6), [[1, 2]], K=3, L=2, max_new_tokens=6, ends=(), top_k=8, top_p=.9, temperature=.7).rows


@path("multidraft")
def drafts():
    from tokenstudy.multidraft import LMDraft, NGramDraft, TopDraft, generate_multidraft
    target, draft = pair()
    some = [TopDraft(draft, nodes=5), NGramDraft(n=2), LMDraft(draft, temperature=[1.0, 1.5]), [LMDraft(draft), NGramDraft(n=2)]]
    found = [(t, generate_multidraft(target, one, [[1, 2, 1, 2]], L=2, max_new_tokens=6, ends=(), temperature=t).rows) for one in some for t in (0., 1.)
             if not (t and isinstance(one, TopDraft))]
    return [lengths(rows) if t else rows for t, rows in found]


@path("multidraft")
def in_generate():
    from tokenstudy.multidraft import LMDraft, Multidraft
    target, draft = pair()
    how = dict(custom_generate=Multidraft(LMDraft(draft), K=3), max_new_tokens=8, pad_token_id=0)
    return [target.model.generate(torch.tensor([[1, 2]], device=core.device()), do_sample=s, **how) for s in (False, True)]


@path("multidraft")
def shortlist_draft():
    from tokenstudy.multidraft import LMDraft, generate_multidraft
    from tokenstudy.multidraft.distilled import DraftConfig, new_draft
    target = tiny(vocab=24)
    config = DraftConfig(vocab_size=24, shortlist_size=10, rank=8, num_attention_heads=2)
    draft = put(lms.as_lm(new_draft(target, config, torch.arange(24.))))
    return lengths(generate_multidraft(target, LMDraft(draft), [[1, 2]], K=2, L=2, max_new_tokens=4, ends=()).rows)


@path("multidraft")
def distillation():
    from tokenstudy.multidraft.distillation import distill, evaluate, held_out_texts, sample_corpus
    from tokenstudy.multidraft.distilled import DraftConfig
    target, options = tiny(vocab=24), dict(template=([1, 2], [22, 3], [5, 2]), rows=4)
    files = sample_corpus(target, tempfile.mkdtemp(), 2, length=8, top=12, **options)
    config = DraftConfig(vocab_size=24, shortlist_size=24, rank=8, num_attention_heads=2)
    model, history = distill(target, files[0].parent, config, epochs=2, looks=1)
    texts = held_out_texts(files[-1], 3)
    found = evaluate(target, put(lms.as_lm(model)), texts, temperatures=[1.0])
    return [p.detach().float().sum() for p in model.parameters()], found["positions"]


@path("multidraft")
def costs():
    from tokenstudy.multidraft import TopDraft
    from tokenstudy.multidraft.rates import draft_cost, target_costs
    target, draft = pair()
    return sorted(target_costs(target, (1, 4), context=8, runs=1)), draft_cost(TopDraft(draft, nodes=3), target, [1, 2], L=2, runs=1) > 0


# ---- cdpo

def clean(ids): return 3 not in ids
def words(): return put(__import__("tokenstudy.cdpo.pairs", fromlist=["word_lm"]).word_lm(["7 - 9 = 8 3"]))
def preferences():
    from datasets import Dataset
    from tokenstudy.cdpo.pairs import tokenize_pairs
    rows = [dict(prompt="7 - 9 =", chosen=" 8", rejected=" 3", rejected_weights=[1., .5]), dict(prompt="9 - 7 =", chosen=" 3 8", rejected=" 8", rejected_weights=[.5, 1.])]
    return tokenize_pairs(Dataset.from_list(rows*2), words().tokenizer)


@path("cdpo")
def signals():
    from tokenstudy.cdpo.contrast import token_signals
    from tokenstudy.cdpo.weights import weights_from_contrast
    from datasets import Dataset
    a, b, c = (tiny(vocab=8, seed=s) for s in range(3))
    pairs = Dataset.from_list([dict(prompt_ids=[1, 2], rejected_ids=[4, 3, 7])])
    return token_signals(a, b, c, ([1, 2], [4, 3, 7]), values=np.array([.5, .4, .1])), weights_from_contrast(b, c, pairs)


@path("cdpo")
def contrast_model():
    from tokenstudy.cdpo.contrast import contrast_model
    return [lms.sequence_logits(contrast_model(tiny(vocab=8), [([1, 2], [4, 7])]*2, 2, lr=1e-2, lora=r), [1, 2, 4]) for r in (0, 2)]


@path("cdpo")
def identifying():
    from tokenstudy.cdpo.critical import identify, identify_sequential, intervene
    lm = tiny(vocab=8, seed=0)
    some = dict(num_samples=16, max_total=8)
    full, quick = identify(lm, ([1, 2], [4, 3, 7]), clean, **some), identify_sequential(lm, ([1, 2], [4, 5, 3, 6, 1, 4, 7]), clean, num_samples=16, max_total=12)
    return full.counts, quick.counts, intervene(lm, [([1, 2], [4, 3, 7])], [clean], indices=[1], **some)


@path("cdpo")
def trained_by_every_method():
    from tokenstudy.cdpo.methods import METHODS, pair_logprobs, train
    pairs, found = preferences(), {}
    for method in METHODS:
        done = train(method, words(), pairs, lr=1e-2, epochs=1, batch_size=2)
        model = getattr(done, "lm", None) or next(v for v in vars(done).values() if hasattr(v, "model"))
        found[method] = pair_logprobs(model.model, pairs)
    return found


@path("cdpo")
def trained_with_adapters_and_resumed():
    from peft import LoraConfig
    from tokenstudy.cdpo.methods import train, with_reference
    pairs, where = preferences(), tempfile.mkdtemp()
    how = dict(lr=1e-2, epochs=2, batch_size=2, peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), output_dir=where)
    train("critical_dpo", words(), pairs, **how)
    again = train("critical_dpo", words(), pairs, resume=True, **how)
    return with_reference(words(), pairs)[0], len(again.report)


@path("cdpo")
def evaluating():
    from tokenstudy.cdpo.comparison import evaluate
    return evaluate(tiny(vocab=8), [dict(prompt_ids=[1, 2])]*2, lambda row, ids: 3 in ids, max_new_tokens=4)


# ---- tvm

def solutions():
    return [reasoning.Trajectory(p, [1, 2], ids, [0.]*len(ids), a, correct=a == "7", finished=True)
            for p, ids, a in (("p", [3, 4, 7], "7"), ("p", [3, 5, 7], "5"), ("q", [2, 4, 7], "7"), ("q", [6, 6, 3, 7], "3"))]


@path("tvm")
def train_verifier():
    from peft import LoraConfig
    from tokenstudy.tvm.training import train_verifier
    from tokenstudy.tvm.verifier import score_responses
    found = []
    for kind, adapters in (("tvm", None), ("orm", None), ("ovm", LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))):
        run = train_verifier(tiny(vocab=8), solutions(), kind, epochs=2, batch_size=2, lr=1e-2, peft_config=adapters, eval_data=solutions()[:2])
        found += [[entry["step"] for entry in run.log], score_responses(run.model, [([1, 2], [3, 4, 7]), ([1], [7])])]
    return found


@path("tvm")
def train_verifier_resumes():
    from tokenstudy.tvm.training import train_verifier
    from tokenstudy.tvm.verifier import load_verifier, save_verifier, score_responses
    where = tempfile.mkdtemp()
    how = dict(batch_size=2, lr=1e-2, output_dir=where, save_every=0)
    train_verifier(tiny(vocab=8), solutions(), "tvm", epochs=2, **how)
    run = train_verifier(tiny(vocab=8), solutions(), "tvm", epochs=2, resume=True, **how)
    folder = save_verifier(run.model, tempfile.mkdtemp() + "/verifier")
    asked = [([1, 2], [3, 4, 7])]
    return score_responses(run.model, asked), score_responses(load_verifier(folder), asked)


@path("tvm")
def scoring():
    from tokenstudy.tvm.verifier import TokenValueModel, score_samples, value_quality
    model = put(TokenValueModel.from_causal_lm(tiny(vocab=8)))
    return score_samples(model, [solutions()[:2], solutions()[2:]]), value_quality(model, solutions(), [[.5]*len(t.response_ids) for t in solutions()])["brier"]


def judge():
    from tokenstudy.tvm.verifier import TokenValueModel
    return put(TokenValueModel.from_causal_lm(tiny(vocab=8, seed=3)))


@path("tvm")
def searches():
    from tokenstudy.tvm.policies import dvts, rebase, step_beam
    how = dict(K=4, block=2, max_new_tokens=6)
    made = [step_beam(tiny(vocab=8), judge(), [[1, 2], [3]], b=2, **how), step_beam(tiny(vocab=8), judge(), [[1, 2]], b=2, recompute=True, **how),
            dvts(tiny(vocab=8), judge(), [[1, 2]], b=2, **how), rebase(tiny(vocab=8), judge(), [[1, 2]], lookahead=2, **how),
            step_beam(tiny(vocab=8), None, [[1, 2]], b=2, **how)]
    return [[(node.tokens, node.value) for node in one.nodes] for some in made for one in some]


@path("tvm")
def train_verifier_in_small_parts():
    from tokenstudy.tvm.training import train_verifier
    return [e["step"] for e in train_verifier(tiny(vocab=8), solutions(), "orm", epochs=1, micro_tokens=6).log]


@path("tvm")
def labels_by_rollouts():
    from tokenstudy.tvm.labels import prm_labels_by_rollout
    return prm_labels_by_rollout(tiny(vocab=8), solutions()[:2], clean, block=1, num_samples=4, max_total=6)


# ---- brat

FAMILIES = ("sd", "sdxl", "sd3", "flux", "sana", "pixart")


def pictures(size=16): return [torch.linspace(0, 1, 3*size*size).reshape(3, size, size)*k for k in (.5, 1.)]


def inverted(family, **options):
    from tokenstudy.brat.inversion import invert
    from tokenstudy.brat.pipelines import random_pipeline
    pipeline = random_pipeline(family)
    pipeline.to(core.device())
    size = 32 if family == "sana" else 16
    made = invert(pipeline, pictures(size), "<x>", init_word="cat", num_steps=2, batch_size=2, progress=False, **options)
    return pipeline, made


def with_family(family):
    def check(): return inverted(family)[1].embeddings
    check.__name__ = f"invert_{family}"
    return check


for family in FAMILIES: path("brat")(with_family(family))


@path("brat")
def invert_options():
    where, rows = tempfile.mkdtemp(), []
    for options in (dict(strategy="negative", num_bonus=0), dict(strategy="blocks", num_bonus=0, blocks=3), dict(mixed_precision="bf16", gradient_checkpointing=True),
                    dict(output_dir=where, save_every=1), dict(output_dir=where, save_every=1)):
        pipeline, made = inverted("sd", **options)
        if "mixed_precision" not in options: rows.append(made.embeddings)
    return rows


@path("brat")
def concept_draws():
    shapes = []
    for strategy in ("tokens", "blocks"):
        pipeline, made = inverted("sd", strategy=strategy, num_bonus=1 if strategy == "tokens" else 0)
        shown = made.generate(pipeline, "a <x>", num_inference_steps=2, output_type="pt", height=16, width=16,
                              generator=torch.Generator(core.device()).manual_seed(0))
        shapes.append(tuple(shown.shape if hasattr(shown, "shape") else shown.images.shape if hasattr(shown, "images") else shown[0].shape))
    made.save(tempfile.mkdtemp() + "/x")
    return shapes


@path("brat")
def instruments_and_bases():
    from tokenstudy.brat import draw, load_base, load_contrast, load_reader
    base = load_base("unet")
    shown = draw(base, ["a red creature"], seeds=[1], num_inference_steps=2)
    read = load_reader().read(put_tensor(shown))
    return tuple(shown.shape), len(read), load_contrast().text(["a red creature", "a blue creature"]).shape


def put_tensor(x): return torch.as_tensor(x).to(core.device())


@path("brat")
def training_of_bases():
    from tokenstudy.brat.recipe import draw_world, train_base, train_contrast, train_reader
    world = draw_world(6, processes=1)
    base = train_base("unet", *world, num_steps=2, batch_size=2)
    reader, contrast = train_reader(*world, num_steps=2, batch_size=4), train_contrast(*world, num_steps=2, batch_size=4)
    return base.unet.training, sorted(contrast.text("a red creature").shape), len(reader.read(torch.rand(1, 3, 32, 32).to(core.device()))[0])
