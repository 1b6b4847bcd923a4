"""The multi-draft engine. The exact distribution of whole texts by enumeration of the engine itself (model, tree, cache and all), chi-square on batches, greedy
texts against transformers, the cache against uncached reading; and a list of faults, each of which must be caught by the checks that the real code passes.
Models are in float64 where a tolerance or an equality would otherwise depend on rounding."""
import copy
from dataclasses import replace
from collections import Counter

import numpy as np
import pytest
import torch
import transformers as tf
from hypothesis import HealthCheck, given, settings, strategies as st
from scipy.stats import chi2
from transformers.generation.streamers import BaseStreamer

from conftest import named
from tokenstudy import lm as lms
from tokenstudy.multidraft import verification
from tokenstudy.multidraft.schemes import Scheme, all_branches, draw
from tokenstudy.multidraft.decoding import Choice, Multidraft, NodeDistributions, TargetDistributions, TokenLevel, generate_multidraft, stream_multidraft
from tokenstudy.multidraft.drafts import Draft, Distribution, LMDraft, Mixed, NGramDraft, TopDraft, Tree, check_distribution, distributions_of
from tokenstudy.multidraft.schemes import NaiveLookup, SingleDraft, SpecInfer, SpecTr
from tokenstudy.multidraft.optimal import Optimal
from tokenstudy.multidraft.canonical import TruncatedLP
from tokenstudy.multidraft.verification import Block, TableDistributions, Traversal, decode_table

FAMILIES = ("llama", "qwen", "gpt2", "opt")
RAGGED = [[1, 2, 3], [2], [3, 1, 1, 2, 3], [1, 0]]


_MADE = {}
def tiny(family="llama", vocab=3, seed=0, dtype=torch.float64):
    "A tiny model in float64, made once."
    key = family, vocab, seed, dtype
    if key not in _MADE:
        made = lms.tiny_lm(family, vocab=vocab, seed=seed)
        made.model.to(dtype)
        _MADE[key] = made
    return _MADE[key]


@pytest.fixture(autouse=True)
def one_thread():
    "These matrices are too small for two."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def named(scheme): return repr(scheme) if scheme is None or " at 0x" not in repr(scheme) else type(scheme).__name__


# --- checkers -----------------------------------------------------------------------------------------------------------------------------------

_READ = {}
@torch.no_grad()
def uncached(lm, text):
    "Logits [V] after a text, read as a whole; remembered with their model."
    key = id(lm.model), tuple(map(int, text))
    if key not in _READ: _READ[key] = lm.model, lm.model(torch.tensor([key[1]])).logits[0, -1]
    return _READ[key][1]


def next_distribution(lm, text, **warping):
    "The target's distribution after a text."
    q = lms.warp(uncached(lm, text), **warping).double().numpy()
    return q / q.sum()


def product_distribution(dist, length):
    "The distribution of whole texts from a distribution for every prefix: {tokens: probability}."
    texts = {(): 1.0}
    for _ in range(length):
        texts = {text + (x,): weight * p for text, weight in texts.items() for x, p in enumerate(dist(text)) if p > 0}
    return texts


def furthest(a, b): return max(abs(a.get(text, 0) - b.get(text, 0)) for text in {*a, *b})


def engine_distribution(target, drafts, prompt, length, scheme, neighbours=(), **options):
    "The exact distribution of the engine's text for one prompt, which stands first in a batch with others that have generators of their own."
    dist = Counter()
    def run(rng):
        rngs = [rng] + [np.random.default_rng(b) for b, _ in enumerate(neighbours)]
        return tuple(generate_multidraft(target, drafts, [prompt, *neighbours], scheme=scheme, max_new_tokens=length, seed=rngs, ends=(), **options).rows[0].response_ids)
    for weight, ids in all_branches(run): dist[ids] += weight
    return dist


def check_engine(target, drafts, scheme, length=2, prompt=(1, 0), tolerance=1e-10, neighbours=(), K=None, L=2, **warping):
    found = engine_distribution(target, drafts, list(prompt), length, scheme, neighbours, K=K, L=L, **warping)
    truth = product_distribution(lambda text: next_distribution(target, [*prompt, *text], **warping), length)
    assert abs(sum(found.values()) - 1) < tolerance and furthest(found, truth) < tolerance, (scheme, furthest(found, truth))


def check_table(rule, target, drafts, length, L, tolerance=1e-12):
    found = Counter()
    for weight, (text, _, _) in all_branches(lambda rng: decode_table(rule, target, drafts, length=length, L=L, rng=rng)): found[text] += weight
    truth = product_distribution(target, length)
    assert furthest(found, truth) < tolerance, (rule, furthest(found, truth))


def chi_square(counts, dist):
    "p-value of counted texts under an exact distribution, cells with fewer than five expected texts merged; 0 if an impossible text came."
    total = sum(counts.values())
    if set(counts) - set(dist): return 0.0
    cells = [(p * total, counts[text]) for text, p in dist.items() if p * total >= 5]
    rest = total - sum(e for e, _ in cells), total - sum(c for _, c in cells)
    if rest[0] > 1: cells.append(rest)
    return float(chi2.sf(sum((c - e) ** 2 / e for e, c in cells), len(cells) - 1)) if len(cells) > 1 else 1.0


def check_texts(target, drafts, scheme, prompts, batches, limit=1e-4, length=3, seed=0, **options):
    "Texts of `batches` calls of the engine: the first token, the first two, and all, for every prompt, against their exact distributions (level 1e-4 for all together)."
    warping = {k: v for k, v in options.items() if k in ("temperature", "top_k", "top_p")}
    found = [[] for _ in prompts]
    for call in range(batches):
        done = generate_multidraft(target, drafts, prompts, scheme=scheme, max_new_tokens=length, ends=(), seed=1000 * seed + call, **options)
        for texts, row in zip(found, done.rows): texts.append(tuple(row.response_ids))
    by_prompt = {}
    for prompt, texts in zip(prompts, found): by_prompt.setdefault(tuple(prompt), []).extend(texts)
    values = []
    for prompt, texts in by_prompt.items():
        whole = product_distribution(lambda text: next_distribution(target, [*prompt, *text], **warping), length)
        for first in range(1, length + 1):
            dist = Counter()
            for text, p in whole.items(): dist[text[:first]] += p
            values.append(chi_square(Counter(text[:first] for text in texts), dist))
    assert min(values) * len(values) > limit, min(values)


# --- exact distributions: the engine itself -----------------------------------------------------------------------------------------------------------------

def three():
    "A target and two drafts of three tokens (GPT-2 computes in float64 throughout; Llama's norms do not)."
    return tuple(tiny("gpt2", vocab=3, seed=seed) for seed in (4, 5, 6))

IDENTICAL = [SingleDraft(), NaiveLookup(), SpecInfer(), SpecInfer(replacement=False), TruncatedLP(), TruncatedLP(1, 2), SpecTr(), Optimal(), Traversal(), None]
DIFFERENT = [SingleDraft(), NaiveLookup(), SpecInfer(), TruncatedLP(), TruncatedLP(1, 2), Traversal(), None]


@pytest.mark.parametrize("scheme", IDENTICAL, ids=named)
def test_sequence_distribution_identical_drafts(scheme):
    target, small, _ = three()
    check_engine(target, LMDraft(small, temperature=1.4), scheme, K=2, L=1, temperature=.8)


@pytest.mark.parametrize("scheme", [Optimal(), SpecTr(), SpecInfer(replacement=False), TruncatedLP(), Traversal()], ids=named)
def test_sequence_distribution_over_several_levels(scheme):
    target, small, _ = three()
    check_engine(target, LMDraft(small, top_k=2), scheme, length=3, K=2, L=2, top_k=2)


@pytest.mark.parametrize("scheme", DIFFERENT, ids=named)
def test_sequence_distribution_different_drafts(scheme):
    target, small, other = three()
    check_engine(target, LMDraft(small, temperature=[1.0, 2.0], top_k=2), scheme, L=1, temperature=1.3)
    check_engine(target, [LMDraft(small, top_k=2), LMDraft(other, top_k=1)], scheme, length=3, top_k=2)
    check_engine(target, [LMDraft(other), NGramDraft()], scheme, prompt=(1, 0, 1, 2, 1), top_k=2)


@pytest.mark.parametrize("scheme", [NaiveLookup(), Traversal(), TruncatedLP(), SpecInfer()], ids=named)
def test_sequence_distribution_of_drafts_that_do_not_sample(scheme):
    target, small, other = three()
    check_engine(target, TopDraft(small, nodes=3, width=2), scheme, length=3)
    check_engine(target, TopDraft(small, nodes=1), scheme, temperature=.5)
    check_engine(target, Mixed([Mixed([TopDraft(small, 2, 1)]), LMDraft(other)]), scheme, length=2)


@pytest.mark.parametrize("scheme", [Optimal(), SpecTr(), SpecInfer(replacement=False), Traversal(), NaiveLookup()], ids=named)
def test_sequence_distribution_of_ngrams(scheme):
    target, *_ = three()
    check_engine(target, NGramDraft(), scheme, length=3, prompt=(1, 0, 1, 2, 1), K=2, L=2, top_k=2)
    check_engine(target, NGramDraft(n=2, least=2), scheme, prompt=(2, 0), K=2)                     # nothing matches


@pytest.mark.parametrize("scheme", [Block(), Optimal(), SpecTr(), Traversal(), SpecInfer(replacement=False), TruncatedLP()], ids=named)
def test_sequence_distribution_of_one_sequence(scheme):
    target, small, _ = three()
    check_engine(target, LMDraft(small), scheme, length=3, K=1, temperature=.7, top_k=2)
    check_engine(target, LMDraft(small), scheme, length=2, K=1, L=5, top_p=.9)
    check_engine(target, TopDraft(small, nodes=1), scheme)


@pytest.mark.parametrize("family", FAMILIES)
def test_sequence_distribution_in_a_ragged_batch(family):
    "The first row is enumerated while its neighbours, shorter and longer, go their own ways."
    target, small, tolerance = tiny(family, 3, seed=1), tiny(family, 3, seed=2), 1e-10 if family in ("gpt2", "opt") else 1e-6      # norms in float32
    check_engine(target, LMDraft(small, temperature=1.5), None, length=2, neighbours=[[1], [2, 2, 0, 1, 1]], K=2, L=1, temperature=.7, top_k=2, tolerance=tolerance)
    if family in ("llama", "gpt2"): check_engine(target, LMDraft(small, top_k=2), Traversal(), length=3, neighbours=[[1, 1, 2, 0]], K=2, L=2, top_k=2, tolerance=tolerance)


@pytest.mark.parametrize("settings", [dict(temperature=.5), dict(temperature=2.0), dict(top_k=1), dict(top_k=2), dict(top_p=.6), dict(temperature=.7, top_k=2, top_p=.8), dict(temperature=0)], ids=named)
def test_sequence_distribution_of_the_warped_target(settings):
    target, small, _ = three()
    for scheme in (Optimal(), Traversal()): check_engine(target, LMDraft(small), scheme, K=2, L=1, **settings)


def test_sequence_distribution_in_float32_and_eager():
    "float32 models: the distribution to 1e-5, which is the rounding of batches of different widths. Eager attention: as exact as the other."
    target, small = tiny(vocab=3, seed=4, dtype=torch.float32), tiny(vocab=3, seed=5, dtype=torch.float32)
    for scheme in (Optimal(), Traversal()): check_engine(target, LMDraft(small), scheme, K=2, L=1, tolerance=1e-5)
    eager = lms.LM(copy.deepcopy(three()[0].model), None, "eager")
    eager.model.set_attn_implementation("eager")
    check_engine(eager, LMDraft(three()[1]), Optimal(), K=2, L=1, neighbours=[[2, 2, 2]])


def test_sequence_distribution_with_more_drafts_than_tokens():
    target, small, _ = three()
    for scheme in (Optimal(), SpecInfer(replacement=False), SpecTr()): check_engine(target, LMDraft(small, top_k=2), scheme, K=3, L=1)


# --- exact distributions: tables ----------------------------------------------------------------------------------------------------------------------------

WEIGHT = st.one_of(st.sampled_from([0.0, 0.0, 1.0, 1.0, 2.0, 1e-18, 1e-9, 1e-4]), st.floats(1e-3, 1))


def normalised(weights):
    weights = np.array(weights)
    return weights / weights.sum() if weights.sum() > 0 else np.eye(len(weights))[0]


@st.composite
def tables(pick, different):
    "Distributions that depend on the prefix, from a common pool (so that q = p and point masses happen): (target, drafts, length, L)."
    n, K, L = pick(st.sampled_from([(2, 1, 2), (2, 2, 2), (2, 3, 2), (3, 2, 1), (3, 3, 1), (3, 1, 2), (4, 2, 1)]))
    pool = [normalised(w) for w in pick(st.lists(st.lists(WEIGHT, min_size=n, max_size=n), min_size=1, max_size=5))]
    def dist(start, step): return lambda text: pool[(start + sum((step + i) * (x + 1) for i, x in enumerate(text))) % len(pool)]
    some = st.tuples(st.integers(0, 4), st.integers(0, 4))
    target = dist(*pick(some))
    drafts = [dist(*pick(some)) for _ in range(K)] if different else [dist(*pick(some))] * K
    return target, drafts, L + 1, L


@pytest.mark.parametrize("scheme", [SingleDraft(), NaiveLookup(), SpecInfer(), SpecInfer(replacement=False), SpecTr(), TruncatedLP(), TruncatedLP(1, 2), Optimal()], ids=named)
@given(case=tables(different=False))
@settings(max_examples=10)
def test_sequence_distribution_of_tables_identical_drafts(scheme, case): check_table(TokenLevel(scheme), *case)


@pytest.mark.parametrize("scheme", [SingleDraft(), NaiveLookup(), SpecInfer(), TruncatedLP(), TruncatedLP(1, 2)], ids=named)
@given(case=tables(different=True))
@settings(max_examples=10)
def test_sequence_distribution_of_tables_different_drafts(scheme, case): check_table(TokenLevel(scheme), *case)


@pytest.mark.parametrize("different", [False, True])
@given(data=st.data())
@settings(max_examples=25)
def test_sequence_distribution_of_tables_traversal(different, data): check_table(Traversal(), *data.draw(tables(different)))


@given(case=tables(different=False))
@settings(max_examples=25)
def test_sequence_distribution_of_tables_block(case):
    target, drafts, length, L = case
    check_table(Block(), target, drafts[:1], length, L)
    check_table(Traversal(), target, drafts[:1], length, L)


DISJOINT = {"disjoint": ([.5, .5, 0, 0], [0, 0, .5, .5]), "point on point": ([1, 0, 0], [1, 0, 0]), "point on other": ([1, 0, 0], [0, 1, 0]), "point target": ([0, 1, 0], [.3, .3, .4]),
            "point draft": ([.2, .3, .5], [0, 0, 1]), "equal": ([.2, .3, .5], [.2, .3, .5]), "half outside": ([.1, .2, .3, .4], [.5, .5, 0, 0])}


@pytest.mark.parametrize("name", DISJOINT)
def test_sequence_distribution_of_named_tables(name):
    q, p = (np.array(dist, float) for dist in DISJOINT[name])
    for K, L in ((1, 2), (2, 1), (3, 1)):
        for rule in [Traversal()] + [TokenLevel(s) for s in (SpecInfer(), SpecInfer(replacement=False), TruncatedLP(), SpecTr(), Optimal(), NaiveLookup())] + [Block()] * (K == 1):
            check_table(rule, lambda text: q, [lambda text: p] * K, 2, L)


# --- chi-square on whole texts ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_sequence_distribution_by_chi_square(family):
    "Sampled texts: one row at a time, four ragged rows at a time, and hundreds of rows at once."
    target, small = tiny(family, 5, seed=1, dtype=torch.float32), tiny("llama", 5, seed=2, dtype=torch.float32)
    alike, unlike = LMDraft(small, temperature=1.3), LMDraft(small, temperature=[1.0, 1.8])
    check_texts(target, alike, Optimal(), RAGGED[:1], 50, K=2, L=2, temperature=.7)
    check_texts(target, unlike, None, RAGGED, 25, L=2, temperature=.7, top_k=4)
    check_texts(target, alike, Traversal(), RAGGED * 40, 1, K=3, L=2, temperature=.7)
    check_texts(target, [NGramDraft(), TopDraft(small, 3, 2), LMDraft(small)], TruncatedLP(), RAGGED * 40, 1, L=2, top_p=.9)


# --- faults: each must be caught by a check that the real code passes ----------------------------------------------------------------------------------

def stale(self, paths):
    self.lengths += [len(path) for path in paths]
    self._forget()

def slots_for_positions(self, depths, old): return self.lengths[:, None] + np.arange(old, depths.shape[1])

def positions_one_late(self, depths, old): return self.lengths[:, None] + depths[:, old:] + 1

def residual_of_the_unwarped(self, rng):
    raw = self.q ** .5                            # the checks run at temperature .5: this undoes it
    return draw(rng, np.maximum(raw / raw.sum() - self.accepted_probabilities(), 0) + 1e-300)

_distributions = TargetDistributions.__init__
def unwarped_distributions(self, logits, **warping): _distributions(self, logits)

_grow = Tree.grow
def grow_once(self, node, token, dist):
    known = (node, token) in self.child
    child = _grow(self, node, token, dist)
    if known: self.draws[node].pop()
    return child

def always_accept(self, drafts, rng): return drafts[0], True

def likeliest_other(self, node, tokens, rng): return int(np.argmax(self._without(self[node], tokens)))

def all_others(self, node, tokens, rng): return draw(rng, self[node])

_extend = lms.CachedModel.extend
def siblings_seen(self, tokens, parents=None, last=False, **options):
    if parents is not None: parents = [[i - 1 for i in range(len(row))] for row in parents]
    return _extend(self, tokens, parents, last, **options)

_select = lms.CachedModel.select
def wrong_rows(self, rows): _select(self, [len(self.lengths) - 1 - b for b in rows])

FAULTS = {"stale cache row": (lms.CachedModel, "commit", stale), "slots instead of positions": (lms.CachedModel, "positions", slots_for_positions),
          "positions one late": (lms.CachedModel, "positions", positions_one_late), "siblings seen": (lms.CachedModel, "extend", siblings_seen),
          "residual of the unwarped distribution": (Scheme, "redraw", residual_of_the_unwarped), "unwarped target": (TargetDistributions, "__init__", unwarped_distributions),
          "forgotten multiplicity": (Tree, "grow", grow_once), "always accept": (Scheme, "select", always_accept), "the likeliest of the others": (NodeDistributions, "draw_other", likeliest_other),
          "the others and the drafted": (NodeDistributions, "draw_other", all_others)}


def exactly():
    target, small = tiny("gpt2", 3, seed=1), tiny("gpt2", 3, seed=2)
    check_engine(target, LMDraft(small, temperature=1.5, top_k=2), Optimal(), length=2, neighbours=[[2, 2, 0, 1, 1]], K=2, L=1, temperature=.5)
    check_engine(target, LMDraft(small, top_k=1), Optimal(), length=2, K=1, L=1, temperature=.5)


def statistically():
    target = tiny("gpt2", 6, seed=1, dtype=torch.float32)
    check_texts(target, LMDraft(target, temperature=1.5), Optimal(), RAGGED * 150, 1, K=3, L=2, temperature=.5, top_k=4)


def test_decoding_checkers_pass_without_faults():
    exactly()
    statistically()


@pytest.mark.parametrize("name", FAULTS)
def test_decoding_faults_are_caught_exactly(name, monkeypatch):
    monkeypatch.setattr(*FAULTS[name])
    with pytest.raises((AssertionError, ValueError)): exactly()


@pytest.mark.parametrize("name", ["stale cache row", "slots instead of positions", "siblings seen", "unwarped target", "always accept"])
def test_decoding_faults_are_caught_in_samples(name, monkeypatch):
    monkeypatch.setattr(*FAULTS[name])
    with pytest.raises(AssertionError): statistically()


def test_decoding_fault_rows_in_the_wrong_order_after_one_ends(monkeypatch):
    "A row that ends takes another row's cache with it: only seen if rows end at different times."
    def ending():
        target, plain = tiny("llama", 7, seed=3), [greedy(tiny("llama", 7, seed=3), prompt, 14, 4) for prompt in SOME]
        assert [row.response_ids for row in generate_multidraft(target, LMDraft(tiny("llama", 7, seed=2)), SOME, K=2, max_new_tokens=14, temperature=0, ends=[4]).rows] == plain
    ending()
    monkeypatch.setattr(lms.CachedModel, "select", wrong_rows)
    with pytest.raises((AssertionError, ValueError, IndexError)): ending()


def table(seed, n=3):
    "A random distribution for every prefix."
    known = {}
    def dist(prefix):
        if prefix not in known: known[prefix] = np.random.default_rng([seed, *prefix]).dirichlet(np.ones(n))
        return known[prefix]
    return dist


class ForgetsTheUpdate(Traversal):
    "A draft that agrees with an earlier one is not counted as an attempt."
    def verify(self, tree, target, rng):
        for node, draws in enumerate(tree.draws): tree.draws[node] = list({child: (dist, child) for dist, child in draws}.values())
        return super().verify(tree, target, rng)

class RootFirst(Block):
    "Block verification whose coins are those of token-level verification, with its own leftover."
    def verify(self, tree, target, rng):
        path, token = super().verify(tree, target, rng)
        return (path[:1], token) if len(path) > 1 else (path, token)


@pytest.mark.parametrize("fault", ["multiplicity", "keeps p", "keeps q", "token from elsewhere"])
def test_sequence_distribution_faults_of_verification_are_caught(fault, monkeypatch):
    target, one, whole = table(0), table(1), verification.leftover
    rule, drafts = Traversal(), [one, one]
    if fault == "multiplicity":
        check_table(rule, target, drafts, 3, 2)
        rule = ForgetsTheUpdate()
    elif fault == "keeps p": monkeypatch.setattr(verification, "leftover", lambda p, q, s: (p, whole(p, q, s)[1]))
    elif fault == "keeps q": monkeypatch.setattr(verification, "leftover", lambda p, q, s: (whole(p, q, s)[0], q))
    else: rule, drafts = RootFirst(), [one]
    with pytest.raises((AssertionError, ValueError)): check_table(rule, target, drafts, 3, 2)


class Careless(Draft):
    "Draws from one distribution of a model and states another; `how` says which."
    def __init__(self, lm, sampled, stated): self.inner, self.sampled, self.stated = LMDraft(lm), sampled, stated
    def begin(self, prompts): self.texts, self.lm = [list(p) for p in prompts], self.inner.lm
    def propose(self, trees, lengths, count, rngs, *, replacement=True):
        for tree, text, length, rng in zip(trees, self.texts, lengths, rngs):
            if not length: continue
            logits = self.lm.model(torch.tensor([text])).logits[:, -1]
            for _ in range(count): tree.add(0, self.sampled(logits).draw(rng), self.stated(logits))
    def advance(self, trees, paths, tokens):
        for text, tree, path, token in zip(self.texts, trees, paths, tokens): text += [tree.tokens[v] for v in path] + [token]
    def select(self, rows): self.texts = [self.texts[b] for b in rows]


def exact_distribution_of(logits): return distributions_of(logits)[0]
def top_two(logits): return distributions_of(logits, top_k=2)[0]
def sharper(logits): return distributions_of(logits, .7)[0]
def flatter(logits): return distributions_of(logits, 1.2)[0]
def rounded(logits):
    dist = flatter(logits)                    # one of five distributions of three tokens adds up to one even when rounded: this one does not
    return replace(dist, probs=torch.tensor(dist.probs).bfloat16().double().numpy())
def in_bfloat16(logits):
    dist = distributions_of(logits.bfloat16().softmax(-1).log())[0]
    return replace(dist, probs=dist.probs.astype(np.float16))


@torch.no_grad()
def test_sequence_distribution_of_a_draft_that_states_another_distribution():
    "Told by the guard where the distribution itself shows it, by the check of the text's distribution where only the samples do."
    target, small, _ = three()
    check_engine(target, Careless(small, exact_distribution_of, exact_distribution_of), SpecInfer(), K=2, L=1)
    with pytest.raises(ValueError, match="warped differently"): check_engine(target, Careless(small, exact_distribution_of, top_two), SpecInfer(), K=2, L=1)
    with pytest.raises(ValueError, match="adds up to"): check_engine(target, Careless(small, flatter, rounded), SpecInfer(), K=2, L=1)
    with pytest.raises(ValueError, match="float32 or better"): check_engine(target, Careless(small, exact_distribution_of, in_bfloat16), SpecInfer(), K=2, L=1)
    for fault in (top_two, sharper):
        with pytest.raises(AssertionError): check_engine(target, Careless(small, fault, exact_distribution_of), SpecInfer(), K=2, L=1)
    with pytest.raises(AssertionError): check_engine(target, Careless(small, rounded, flatter), SpecInfer(), K=2, L=1)


def test_decoding_guard():
    good = Distribution(np.array([1, 4]), np.array([.25, .75]))
    check_distribution(good, 4)
    for wrong, token, message in ((good, 2, "token 2, which has probability 0"), (replace(good, probs=np.array([.25, .7])), None, "adds up to 0.95"), (replace(good, probs=good.probs.astype(np.float16)), None, "float16"),
                                  (replace(good, tokens=np.array([4, 1])), None, "ascending"), (replace(good, probs=np.array([0., 1.])), None, "positive"), (replace(good, tokens=np.array([1, 1])), None, "ascending"),
                                  (replace(good, tokens=np.array([1])), None, "ascending"), (replace(good, probs=np.array([np.nan, 1])), None, "positive|adds up")):
        with pytest.raises(ValueError, match=message): check_distribution(wrong, token)
        tree = Tree(0)
        with pytest.raises(ValueError): tree.add(0, 4 if token is None else token, wrong)
        assert len(tree) == 1 and tree.draws == [[]]


def test_decoding_guard_takes_an_honest_float32_distribution():
    "A float32 softmax over 50,000 tokens adds up to one to 1e-5 only; it must be accepted and give a lawful choice."
    for seed in range(8):
        p = (3 * torch.randn(50_000, generator=torch.Generator().manual_seed(seed))).softmax(-1).numpy()
        dist = Distribution(np.flatnonzero(p), p[p > 0])
        tree = Tree(0)
        tree.add(0, int(dist.tokens[0]), dist)
        q = p.astype(float) / p.sum(dtype=float)
        TokenLevel(SpecInfer()).verify(tree, TableDistributions(lambda text: q, (), tree), np.random.default_rng(0))


# --- greedy ------------------------------------------------------------------------------------------------------------------------------------------

ENDING = dict(llama=(3, 4), qwen=(0, 3), gpt2=(3, 1), opt=(5, 4))           # seed of the target and end token with which rows end at different times
SOME = [[1, 2, 3], [2], [3, 1, 1, 2, 3, 5, 4], [1, 2, 3], [4, 4], [5, 0, 1], [3]]


def greedy(target, prompt, new, end=None):
    "transformers' greedy continuation of one prompt, the end token included."
    ids = target.model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False, max_new_tokens=new, eos_token_id=end, pad_token_id=0)
    ids = ids[0, len(prompt):].tolist()
    return ids[:ids.index(end) + 1] if end in ids else ids


def every_draft(small): return [LMDraft(small), LMDraft(small, 0), LMDraft(small, [.5, 1.0, 2.0]), LMDraft(small, top_k=1), LMDraft(small, top_p=.5), NGramDraft(), NGramDraft(n=1), TopDraft(small, 6, 3),
                                TopDraft(small, 1), Mixed([NGramDraft(), LMDraft(small), Mixed([TopDraft(small, 3, 2)])])]


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_at_temperature_zero_is_greedy_generate(family):
    "Every kind of draft, ragged prompts (two alike, one of a single token), rows that end early and rows that do not."
    seed, end = ENDING[family]
    target, small, options = tiny(family, 7, seed=seed), tiny("gpt2", 7, seed=2), dict(max_new_tokens=14, temperature=0, ends=[end])
    plain = [greedy(target, prompt, 14, end) for prompt in SOME]
    assert len({len(text) for text in plain}) >= 4
    for draft in every_draft(small):
        done = generate_multidraft(target, draft, SOME, L=3, **options)
        assert [row.response_ids for row in done.rows] == plain, draft
        assert [row.finished for row in done.rows] == [text[-1] == end for text in plain]
    for rule in (Traversal(), NaiveLookup(), SpecTr(), SpecInfer(replacement=False), SingleDraft(), TruncatedLP()):
        assert [row.response_ids for row in generate_multidraft(target, LMDraft(small), SOME, scheme=rule, L=3, **options).rows] == plain, rule
    assert [row.response_ids for row in generate_multidraft(target, LMDraft(small), SOME, scheme=Block(), K=1, L=9, **options).rows] == plain
    perfect = generate_multidraft(target, LMDraft(target, 0), SOME[:1], K=1, L=3, max_new_tokens=12, temperature=0, ends=())
    assert perfect.block_efficiency == 4 and len(perfect.steps) == 3


def test_decoding_ends_at_the_models_own_end_token():
    target = tiny("qwen", 7, seed=1)
    assert [row.response_ids for row in generate_multidraft(target, LMDraft(target), SOME, max_new_tokens=14, temperature=0).rows] == [greedy(target, prompt, 14, 6) for prompt in SOME]


def test_decoding_greedy_rows_that_end_at_the_first_token():
    target, small = tiny("llama", 7, seed=3), tiny("llama", 7, seed=2)
    first = greedy(target, [1, 2, 3], 1)[0]
    done = generate_multidraft(target, LMDraft(small), [[1, 2, 3], [2, 2]], temperature=0, max_new_tokens=6, ends={first})
    assert done.rows[0].response_ids == [first] and done.rows[0].finished
    assert all(len(row.response_ids) == 1 and row.finished for row in generate_multidraft(target, LMDraft(small), RAGGED, ends=range(7)).rows)


def test_decoding_target_and_draft_may_be_one_model():
    target = tiny("gpt2", 7, seed=3)
    assert [row.response_ids for row in generate_multidraft(target, [LMDraft(target), LMDraft(target)], RAGGED, max_new_tokens=9, temperature=0, ends=()).rows] == \
        [greedy(target, prompt, 9) for prompt in RAGGED]


# --- through transformers' generate --------------------------------------------------------------------------------------------------------------------

def padded(prompts):
    ids, mask = lms.pad(prompts, "left")
    return dict(input_ids=ids, attention_mask=mask.long())


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_through_generate_greedy(family):
    seed, end = ENDING[family]
    target, small = tiny(family, 7, seed=seed), tiny("gpt2", 7, seed=2)
    options = dict(**padded(SOME), max_new_tokens=14, do_sample=False, pad_token_id=0, eos_token_id=end)
    plain = target.model.generate(**options)
    for draft in (LMDraft(small), LMDraft(small, [1.0, 2.0]), NGramDraft(), TopDraft(small, 6, 3)):
        decode = Multidraft(draft, L=3)
        assert target.model.generate(**options, custom_generate=decode).tolist() == plain.tolist()
        assert decode.last.block_efficiency >= 1 and len(decode.last.rows) == len(SOME)
    rich = target.model.generate(**options, return_dict_in_generate=True, custom_generate=Multidraft(LMDraft(small)))
    assert isinstance(rich, tf.generation.GenerateDecoderOnlyOutput) and rich.sequences.tolist() == plain.tolist()
    one = dict(input_ids=torch.tensor([[1, 2]]), do_sample=False, pad_token_id=0)
    for length in (dict(max_length=5), dict(max_new_tokens=1), {}):
        assert target.model.generate(**one, **length, custom_generate=Multidraft(LMDraft(small))).tolist() == target.model.generate(**one, **length).tolist()


@pytest.mark.parametrize("ends", [[5, 3], [3, 5], [6, 1], 2])
def test_decoding_through_generate_pads_as_generate_does(ends):
    target, small = copy.deepcopy(tiny("llama", 7, seed=3)), tiny("llama", 7, seed=2)
    for pad in (None, 0, 4):
        target.model.generation_config.pad_token_id = target.model.config.pad_token_id = pad
        options = dict(**padded([[1, 2, 3], [2, 4, 4], [3, 3, 1], [5, 0, 1]]), max_new_tokens=10, do_sample=False, eos_token_id=ends)
        assert target.model.generate(**options, custom_generate=Multidraft(LMDraft(small))).tolist() == target.model.generate(**options).tolist()


class Collect(BaseStreamer):
    def __init__(self): self.prompt, self.tokens, self.ended = None, [], 0
    def put(self, value):
        if self.prompt is None and value.dim() == 2: self.prompt = value[0].tolist()
        else: self.tokens += value.tolist() if value.dim() == 1 else value[0].tolist()
    def end(self): self.ended += 1


def test_decoding_streams_each_token_once():
    target, small = tiny("llama", 7, seed=3), tiny("llama", 7, seed=2)
    for prompt in ([1, 2, 3], [5, 0, 1], [2]):
        stream = Collect()
        ids = target.model.generate(torch.tensor([prompt]), max_new_tokens=14, do_sample=False, pad_token_id=0, custom_generate=Multidraft(LMDraft(small), streamer=stream))
        assert stream.tokens == ids[0, len(prompt):].tolist() and stream.ended == 1
        plain = Collect()
        target.model.generate(torch.tensor([prompt]), max_new_tokens=14, do_sample=False, pad_token_id=0, streamer=plain)
        assert stream.prompt == plain.prompt == prompt and stream.tokens == plain.tokens
    with pytest.raises(ValueError, match="one row"):
        target.model.generate(**padded(RAGGED), max_new_tokens=3, custom_generate=Multidraft(LMDraft(small), streamer=Collect()))


class LongEnough(tf.StoppingCriteria):
    def __init__(self, total): self.total = total
    def __call__(self, ids, scores, **options): return torch.full((len(ids),), ids.shape[1] >= self.total)

class Came(tf.StoppingCriteria):
    def __init__(self, token, after): self.token, self.after = token, after
    def __call__(self, ids, scores, **options): return (ids[:, self.after:] == self.token).any(1)


def test_decoding_stopping_criteria_cut_where_generate_cuts():
    target, small = tiny("llama", 7, seed=3), tiny("llama", 7, seed=2)
    for criterion in [LongEnough(total) for total in (4, 5, 6, 9)] + [Came(token, 3) for token in range(7)]:
        options = dict(input_ids=torch.tensor([[1, 2, 3]]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0, stopping_criteria=[criterion])
        stream = Collect()
        decode = Multidraft(LMDraft(target), K=2, L=3, streamer=stream)
        ids, plain = target.model.generate(**options, custom_generate=decode), target.model.generate(**options)
        assert ids.tolist() == plain.tolist()
        assert stream.tokens == ids[0, 3:].tolist() == decode.last.rows[0].response_ids
        assert sum(sum(s.tokens.values()) for s in decode.last.steps) == len(stream.tokens)
    options = dict(**padded(RAGGED), max_new_tokens=12, do_sample=False, pad_token_id=0, stopping_criteria=[Came(3, 5)])
    assert target.model.generate(**options, custom_generate=Multidraft(LMDraft(small))).tolist() == target.model.generate(**options).tolist()


def toy_tokenizer(vocab):
    "One letter a token, the last one ends."
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    made = Tokenizer(models.WordLevel({chr(97 + i): i for i in range(vocab)}, unk_token="a"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=chr(96 + vocab), pad_token="a")


def test_decoding_stop_strings():
    tokenizer, small = toy_tokenizer(7), tiny("llama", 7, seed=2)
    target = tiny("llama", 7, seed=3)._replace(tokenizer=tokenizer)
    whole = generate_multidraft(target, LMDraft(small), ["bcd", "c"], max_new_tokens=20, seed=1, ends=())
    for stop in ([whole.rows[0].text[4:6]], whole.rows[1].text[7:9], ["zz", whole.rows[0].text[:1]]):
        done = generate_multidraft(target, LMDraft(small), ["bcd", "c"], max_new_tokens=20, seed=1, ends=(), stop_strings=stop)
        for row, full in zip(done.rows, whole.rows):
            found = [full.text.find(s) + len(s) for s in ([stop] if isinstance(stop, str) else stop) if s in full.text]
            assert row.text == full.text[:min(found, default=20)] and row.finished == bool(found)
    options = dict(**tokenizer(["bcd"], return_tensors="pt", return_token_type_ids=False), max_new_tokens=12, do_sample=False, eos_token_id=None,
                   stopping_criteria=[tf.StopStringCriteria(tokenizer, ["ff", "bc", "ee", "da"])])
    assert target.model.generate(**options, custom_generate=Multidraft(LMDraft(small), tokenizer=tokenizer)).tolist() == target.model.generate(**options).tolist()


def test_decoding_through_generate_samples():
    "num_return_sequences, generate's own defaults (top_k = 50), seeds that follow torch's, and the distribution by chi-square."
    target, small = tiny("gpt2", 5, seed=1, dtype=torch.float32), tiny("llama", 5, seed=2, dtype=torch.float32)
    options = dict(**padded([[1, 2, 3], [2]]), do_sample=True, max_new_tokens=3, num_return_sequences=150, eos_token_id=None, pad_token_id=0)
    def texts(seed, **more):
        torch.manual_seed(seed)
        return target.model.generate(**options | more, custom_generate=Multidraft(LMDraft(small), K=2, L=2))[:, 3:].tolist()
    assert texts(0) == texts(0) != texts(1)
    for warping in (dict(temperature=.7, top_k=3), dict(top_p=.8), dict(temperature=None)):
        found, values = texts(2, **warping), []
        kept = {k: v for k, v in warping.items() if v is not None}
        for part, prompt in ((found[:150], [1, 2, 3]), (found[150:], [2])):
            values.append(chi_square(Counter(map(tuple, part)), product_distribution(lambda text: next_distribution(target, [*prompt, *text], **kept), 3)))
        assert min(values) > 1e-5, warping


@pytest.mark.parametrize("wrong, message", [
    (dict(repetition_penalty=1.2), "RepetitionPenalty"), (dict(num_beams=2), "num_beams"), (dict(output_scores=True, return_dict_in_generate=True), "output_scores"),
    (dict(output_logits=True, return_dict_in_generate=True), "output_logits"), (dict(output_attentions=True, return_dict_in_generate=True), "output_attentions"),
    (dict(no_repeat_ngram_size=2), "NoRepeatNGram"), (dict(min_new_tokens=2), "MinNewTokens|MinLength"), (dict(bad_words_ids=[[1]]), "NoBadWords|SequenceBias"), (dict(do_sample=True, min_p=.1), "MinP"),
    (dict(do_sample=True, typical_p=.5), "Typical"), (dict(do_sample=True, logits_processor=tf.LogitsProcessorList([tf.TopKLogitsWarper(1)])), "top_k"),
    (dict(max_new_tokens=1000), "do not fit")], ids=named)
def test_decoding_through_generate_refuses_what_it_does_not_honour(wrong, message):
    target, draft = tiny("llama", 7, seed=3), Untouched()
    options = dict(dict(max_new_tokens=3, pad_token_id=0), **wrong)
    with pytest.raises(ValueError, match=message): target.model.generate(torch.tensor([[1, 2]]), **options, custom_generate=Multidraft(draft))


# --- rows, seeds, records --------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_rows_do_not_depend_on_their_neighbours(family):
    "float64 models, so that rounding decides nothing (in float32 a number may fall between two roundings of a distribution): the same prompt with an equal generator, alone and anywhere in a batch."
    target, small = tiny(family, 7, seed=3), tiny("llama", 7, seed=2)
    prompts = [[1, 2, 3], [2], [3, 1, 1, 2, 3, 5, 4], [1, 2, 3], [0, 5]]
    for draft, scheme in ((LMDraft(small), None), (LMDraft(small, [1.0, 1.5]), Traversal()), (NGramDraft(), Optimal()), (Mixed([TopDraft(small, 4, 2), LMDraft(small)]), None)):
        rngs = lambda: [np.random.default_rng([9, b]) for b in range(len(prompts))]
        together = [row.response_ids for row in generate_multidraft(target, draft, prompts, scheme=scheme, L=3, max_new_tokens=15, seed=rngs()).rows]
        backwards = [row.response_ids for row in generate_multidraft(target, draft, prompts[::-1], scheme=scheme, L=3, max_new_tokens=15, seed=rngs()[::-1]).rows]
        alone = [generate_multidraft(target, draft, [prompt], scheme=scheme, L=3, max_new_tokens=15, seed=[rng]).rows[0].response_ids for prompt, rng in zip(prompts, rngs())]
        assert together == backwards[::-1] == alone
        assert together[0] != together[3]                              # equal prompts, each its own random numbers


def test_decoding_seeds_do_something():
    target, small = tiny("llama", 7, seed=3), tiny("llama", 7, seed=2)
    texts = lambda seed: [row.response_ids for row in generate_multidraft(target, LMDraft(small), RAGGED, max_new_tokens=12, seed=seed, ends=()).rows]
    assert texts(0) == texts(0) != texts(1)
    assert len(set(map(tuple, texts(2)))) == 4
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert texts(0) == texts(0) and (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


def test_decoding_drafts_can_be_used_again():
    target, small = tiny("llama", 7, seed=3), tiny("llama", 7, seed=2)
    for draft in every_draft(small):
        first, second = (generate_multidraft(target, draft, RAGGED, max_new_tokens=9, seed=4).rows for _ in range(2))
        assert first == second


def test_decoding_one_draft_given_twice_drafts_as_well_as_two():
    "Either refused, or two equal drafts; not one whose cache reads every token twice."
    target = tiny("llama", 7, seed=3)
    draft = LMDraft(target)
    try: twice = generate_multidraft(target, [draft, draft], [[1, 2, 3]], L=3, max_new_tokens=40, ends=())
    except ValueError: return
    assert twice.block_efficiency == generate_multidraft(target, [LMDraft(target), LMDraft(target)], [[1, 2, 3]], L=3, max_new_tokens=40, ends=()).block_efficiency


@pytest.mark.parametrize("new", [1, 2, 3, 7])
def test_decoding_gives_exactly_so_many_tokens(new):
    target, small = tiny("opt", 7, seed=3), tiny("llama", 7, seed=2)
    for draft in every_draft(small):
        assert [len(row.response_ids) for row in generate_multidraft(target, draft, RAGGED, L=4, max_new_tokens=new, ends=()).rows] == [new] * 4
    done = generate_multidraft(target, LMDraft(small), RAGGED * 3, L=4, max_new_tokens=new, ends={1, 3})
    for row in done.rows:
        ended = [i for i, token in enumerate(row.response_ids) if token in (1, 3)]
        assert ended == [len(row.response_ids) - 1] and row.finished if ended else len(row.response_ids) == new and not row.finished


def test_decoding_records_are_consistent():
    target, small = tiny("llama", 7, seed=3), tiny("llama", 7, seed=2)
    for draft in every_draft(small):
        done = generate_multidraft(target, draft, RAGGED * 2, L=3, max_new_tokens=15)
        for b, row in enumerate(done.rows):
            steps = [step for step in done.steps if b in step.tokens]
            assert sum(step.tokens[b] for step in steps) == len(row.response_ids)
            assert all(b in step.tokens for step in done.steps[:len(steps)])               # a row that ended does not come back
            for step in steps:
                assert 1 <= step.nodes[b] and 1 <= step.tokens[b] <= 4 and step.tokens[b] <= len(step.active[b])
                assert all(x >= y for x, y in zip(step.active[b], step.active[b][1:])) or isinstance(draft, TopDraft | Mixed)
                if draft.identical: assert step.active[b][0] <= 4
        for step in done.steps:
            assert step.tokens.keys() == step.active.keys() == step.nodes.keys()
            assert min(step.seconds.values()) >= 0 and step.seconds["draft"] + step.seconds["target"] + step.seconds["selection"] <= step.seconds["total"]
        calls = sum(len(step.tokens) for step in done.steps)
        assert abs(done.block_efficiency - sum(len(row.response_ids) for row in done.rows) / calls) < 1e-12
        assert abs(sum(done.seconds[k] for k in ("draft", "target", "selection", "other")) - done.seconds["total"]) < 1e-9 and done.tokens_per_second > 0


def test_decoding_streams_as_it_generates():
    target, small = tiny("llama", 7, seed=3), tiny("llama", 7, seed=2)
    lengths = []
    for step, rows in stream_multidraft(target, LMDraft(small), RAGGED, max_new_tokens=9, seed=3):
        lengths.append([len(row.response_ids) for row in rows])
        if step is not None: assert [b - a for a, b in zip(lengths[-2], lengths[-1])] == [step.tokens.get(b, 0) for b in range(4)]
    assert rows == generate_multidraft(target, LMDraft(small), RAGGED, max_new_tokens=9, seed=3).rows and lengths[0] == [0] * 4


def test_decoding_fills_the_context_to_its_edge():
    for family in FAMILIES:
        target = tiny(family, 7, seed=3)
        prompts = [np.random.default_rng(0).integers(0, 6, 112).tolist(), [1]]
        done = generate_multidraft(target, [LMDraft(target), NGramDraft(), TopDraft(target, 4, 2)], prompts, L=6, max_new_tokens=16, ends=())
        assert [len(row.response_ids) for row in done.rows] == [16, 16]


def test_decoding_spectr_with_a_fixed_rho():
    "Fewer drafts than rho may be active: refused at the start, or decoded."
    target, small = tiny("llama", 7, seed=3), tiny("llama", 7, seed=2)
    try: list(zip(range(1), stream_multidraft(target, Untouched(), [[1]], scheme=SpecTr(rho=2.0), K=3)))
    except ValueError: return
    except AssertionError: pass                                        # not refused: then it must go through
    generate_multidraft(target, LMDraft(small), RAGGED, scheme=SpecTr(rho=2.0), K=3, L=3, max_new_tokens=20)


def test_decoding_draws_the_tree_that_the_verifier_sees():
    tree, rng = Tree(5), np.random.default_rng(0)
    dist = Distribution(np.array([2, 7]), np.array([.5, .5]))
    children = tree.draw(0, dist, 6, rng)
    assert set(children) == {1, 2} and len(tree.draws[0]) == 6 and len(tree) == 3 and tree.path(children[0]) in ([2], [7])
    assert len(Tree(5).draw(0, dist, 6, rng, replacement=False)) == 2
    grandchild = tree.add(children[0], 7, dist)
    assert tree.parents[grandchild] == children[0] and tree.depths[grandchild] == 2 and tree.add(children[0], 7, dist) == grandchild and len(tree.draws[children[0]]) == 2


@pytest.mark.parametrize("shift, temperature", [(0, 1.0), (-100, 1.0), (-100, .05), (30, .01), (0, 1e-8), (200, 3.0)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_decoding_distribution_at_some_tokens_is_the_distribution(shift, temperature, dtype, tolerance):
    "However far the logits lie from zero (GPT-2's are near -100) and however low the temperature."
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), dtype=dtype) * 3 * max(temperature, .01) + shift
    dists, tokens = TargetDistributions(logits, temperature), np.arange(0, 40, 2)
    for node in range(3):
        q, rest = dists.at(node, tokens)
        assert np.abs(q - dists[node][tokens]).max() < tolerance and abs(rest - np.delete(dists[node], tokens).sum()) < tolerance
    with pytest.raises(ValueError, match="(?i)nan"):
        broken = TargetDistributions(torch.tensor([[1, torch.nan, 2]]), 0)
        Choice(broken, 0, [Distribution(np.array([0]), np.ones(1))]) if broken.certain(0) is None else None


def test_decoding_ngrams_count_what_followed():
    draft = NGramDraft(n=2)
    draft.begin([[1, 2, 3, 1, 2, 4, 1, 2, 3, 1], [5]])
    assert draft.distribution(0).tokens.tolist() == [2] and draft.distribution(1) is None
    dist = draft.distribution(0, [2])
    assert dist.tokens.tolist() == [3, 4] and np.allclose(dist.probs, [2 / 3, 1 / 3])
    assert draft.distribution(0, [9]) is None and draft.distribution(0, [9, 4]).tokens.tolist() == [1]
    draft.select([1])
    assert draft.distribution(0) is None and draft.texts == [[5]]


def test_decoding_small_alphabets_keep_the_distribution():
    "Choice: tokens that no draft can make are one symbol."
    q = np.array([.1, .2, .3, .4])
    one, two = Distribution(np.array([1]), np.ones(1)), Distribution(np.array([0, 1]), np.array([.25, .75]))
    choice = Choice(TableDistributions(lambda text: q, (), Tree(0)), 0, [two, one, two])
    assert choice.tokens.tolist() == [0, 1] and np.allclose(choice.q, [.1, .2, .7]) and np.allclose(choice.ps, [[.25, .75, 0], [0, 1, 0], [.25, .75, 0]])
    assert choice.index(1) == 1 and choice.token(1, None) == 1
    others = Counter()
    for weight, token in all_branches(lambda rng: choice.token(2, rng)): others[token] += weight
    assert abs(others[2] - 3 / 7) < 1e-15 and abs(others[3] - 4 / 7) < 1e-15


# --- the cache ------------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_decoding_cache_is_uncached_reading(family, data):
    "Random ragged texts, random trees read in one or two calls, random paths kept, random rows given up."
    target = tiny(family, 7, seed=3)
    rng = np.random.default_rng(data.draw(st.integers(0, 10 ** 6)))
    texts = [rng.integers(0, 7, rng.integers(1, 6)).tolist() for _ in range(data.draw(st.integers(1, 4)))]
    cached = lms.CachedModel(target, len(texts))
    for round in range(data.draw(st.integers(1, 3))):
        if round == 0:
            logits = cached.extend(texts, last=True)
            for row, text in zip(logits, texts): assert (row - uncached(target, text)).abs().max() < 1e-10
            cached.commit([range(len(text)) for text in texts])
        nodes = [[] for _ in texts]                        # of each row, by number since the last commit: its path of numbers and its tokens, or None for padding
        for _ in range(data.draw(st.integers(1, 2))):
            before = max(len(row) for row in nodes)
            counts = [int(rng.integers(0, 6)) for _ in texts]
            counts[rng.integers(len(counts))] += 1
            tokens, parents = [], []
            for row, count in zip(nodes, counts):
                ids, above = rng.integers(0, 7, count).tolist(), []
                for token in ids:
                    known = [i for i, node in enumerate(row) if node is not None]
                    parent = int(rng.choice([-1, *known]))
                    path, text = row[parent] if parent >= 0 else ([], [])
                    row.append((path + [len(row)], text + [token]))
                    above.append(parent)
                tokens.append(ids)
                parents.append(above)
            logits = cached.extend(tokens, parents)
            for b, (row, text) in enumerate(zip(nodes, texts)):
                for i, node in enumerate(row[before:]): assert (logits[b, i] - uncached(target, text + node[1])).abs().max() < 1e-10
                row += [None] * (before + max(counts) - len(row))
        chosen = [row[rng.choice([i for i, node in enumerate(row) if node is not None])] if any(row) and rng.random() < .8 else ([], []) for row in nodes]
        cached.commit([path for path, _ in chosen])
        texts = [text + kept for text, (_, kept) in zip(texts, chosen)]
        if len(texts) > 1 and rng.random() < .5:
            rows = np.sort(rng.choice(len(texts), rng.integers(1, len(texts)), replace=False)).tolist()
            cached.select(rows)
            texts = [texts[b] for b in rows]
    assert cached.lengths.tolist() == [len(text) for text in texts]


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_cache_grows_beyond_its_first_room(family):
    target, rng = tiny(family, 7, seed=3), np.random.default_rng(0)
    cached = lms.CachedModel(target, 2)
    texts = [[1], [2]]
    cached.extend(texts, last=True)
    cached.commit([[0], [0]])
    first = len(cached.store)
    while len(cached.store) == first:
        new = [rng.integers(0, 7, 9).tolist(), rng.integers(0, 7, 3).tolist()]
        cached.extend(new, [[-1] * 9, [-1, 0, 1]])
        cached.commit([[8], [0, 1, 2]])
        texts = [texts[0] + new[0][8:], texts[1] + new[1]]
    logits = cached.extend([[3], [4]])
    for row, text, token in zip(logits, texts, (3, 4)): assert (row[0] - uncached(target, text + [token])).abs().max() < 1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_cache_at_the_edge_of_the_context(family):
    "Ragged chains: what stands behind the shorter list has no meaning, and must not ask for a position that the model does not have."
    target, rng = tiny(family, 7, seed=3), np.random.default_rng(0)
    texts = [rng.integers(0, 7, 126).tolist(), rng.integers(0, 7, 10).tolist()]
    cached = lms.CachedModel(target, 2)
    cached.extend(texts, last=True)
    cached.commit([range(126), range(10)])
    new = [[1], [1, 2, 3, 4, 5, 6]]
    logits = cached.extend(new, last=True)
    for row, text, more in zip(logits, texts, new): assert (row - uncached(target, text + more)).abs().max() < 1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_in_bfloat16(family):
    "Finite, near float32's logits, and a whole text comes out; the distribution is computed in float32."
    single, rough = tiny(family, 7, seed=3, dtype=torch.float32), tiny(family, 7, seed=3, dtype=torch.bfloat16)
    logits = []
    for model in (single, rough):
        cached = lms.CachedModel(model, 2)
        cached.extend([[1, 2, 3], [4]], last=True)
        cached.commit([[0, 1, 2], [0]])
        logits.append(cached.extend([[1, 2, 3], [5]], [[-1, -1, 0], [-1]]).float())
    assert torch.isfinite(logits[1]).all()
    for b, n in enumerate((3, 1)): assert (logits[0][b, :n] - logits[1][b, :n]).abs().max() < .1 * logits[0][b, :n].abs().max()
    done = generate_multidraft(rough, LMDraft(tiny("llama", 7, seed=2, dtype=torch.bfloat16)), RAGGED, max_new_tokens=6, ends=())
    assert [len(row.response_ids) for row in done.rows] == [6] * 4
    assert distributions_of(rough.model(torch.tensor([[1, 2]])).logits[0].detach())[0].probs.dtype == np.float64


def test_decoding_refuses_attention_that_takes_no_tree():
    "Windows and attention kernels that would ignore the mask silently."
    small = dict(vocab_size=7, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    windowed = lms.LM(tf.MistralForCausalLM(tf.MistralConfig(**small, sliding_window=4)).eval(), None, "windowed")
    with pytest.raises(ValueError, match="window|sliding"): lms.check_attention(windowed)
    layers = lms.LM(tf.Qwen2ForCausalLM(tf.Qwen2Config(**small, use_sliding_window=True, sliding_window=4, max_window_layers=1)).eval(), None, "layers")
    with pytest.raises(ValueError, match="sliding_attention"): lms.check_attention(layers)
    plain = lms.LM(tf.MistralForCausalLM(tf.MistralConfig(**small, sliding_window=None)).eval(), None, "plain")
    lms.check_attention(plain)
    without = lms.LM(tf.BloomForCausalLM(tf.BloomConfig(vocab_size=7, hidden_size=32, n_layer=1, n_head=2)), None, "bloom")
    with pytest.raises(ValueError, match="position_ids"): lms.check_attention(without)
    other = lms.LM(copy.deepcopy(tiny("llama", 7, seed=3).model), None, "other")
    other.model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="flex_attention"): lms.check_attention(other)


# --- packed weights ---------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_packed_equals_the_original(family):
    plain = tiny(family, 7, seed=3, dtype=torch.float32)
    quick, ids = lms.packed(plain), torch.tensor([[1, 2, 3, 4, 5], [3, 3, 1, 0, 2]])
    with torch.inference_mode(): assert torch.allclose(quick.model(ids).logits, plain.model(ids).logits, atol=1e-4, rtol=1e-4)
    assert quick.model.get_input_embeddings().weight is plain.model.get_input_embeddings().weight
    assert any(isinstance(m, lms.PackedLinear) for m in quick.model.modules()) == any(type(m) is torch.nn.Linear for m in plain.model.modules())
    assert not any(isinstance(m, lms.PackedLinear) for m in plain.model.modules())
    texts = [[row.response_ids for row in generate_multidraft(one, LMDraft(one), RAGGED, max_new_tokens=8, temperature=0, ends=()).rows] for one in (plain, quick)]
    assert texts[0] == texts[1]
    assert lms.packed(tiny(family, 7, seed=3)) is tiny(family, 7, seed=3)                 # float64: nothing to pack


# --- bad input --------------------------------------------------------------------------------------------------------------------------------------------

class Untouched(Draft):
    "Fails if any work begins."
    def begin(self, prompts): raise AssertionError("work began")


class Fixed(Untouched):
    def __init__(self, identical, count): self.identical, self.count = identical, count


@pytest.mark.parametrize("change, message", [
    (dict(prompts=[]), "the list is empty"), (dict(prompts="text"), "not one string"), (dict(prompts=["text"]), "has no tokenizer"), (dict(prompts=[[1], []]), "prompt 1 is empty"),
    (dict(prompts=[[1], [7]]), "token id 7 is outside the vocabulary of 7"), (dict(prompts=[[-1]]), "outside the vocabulary"), (dict(prompts=[[1.5]]), "prompt 0"), (dict(prompts=[[1] * 120]), "184 tokens .* do not fit into the context of tiny-llama, 128"),
    (dict(K=0), "K = 0"), (dict(K=2.0), "K = 2.0"), (dict(L=0), "L = 0"), (dict(L="4"), "L = '4'"), (dict(max_new_tokens=0), "max_new_tokens = 0"), (dict(max_new_tokens=2.5), "max_new_tokens = 2.5"),
    (dict(temperature=-1), "temperature = -1"), (dict(temperature=None), "temperature = None"), (dict(top_k=-1), "top_k = -1"), (dict(top_p=0), "top_p = 0"), (dict(top_p=1.5), "top_p = 1.5"),
    (dict(stop_strings="x"), "need a tokenizer"), (dict(stop_strings=[""]), "tokenizer|empty"), (dict(scheme="best"), "scheme = 'best': it must be one of Optimal"), (dict(scheme=Optimal), "scheme"), (dict(drafts=[]), "drafts: the list is empty"),
    (dict(drafts=Fixed(True, 2), K=3), "K = 3, but the drafts given make 2"), (dict(drafts=Fixed(False, 2), scheme=Optimal()), "Optimal is for identical drafts"), (dict(drafts=Fixed(False, 2), scheme=SpecTr()), "SpecTr is for identical"),
    (dict(drafts=Fixed(False, 2), scheme=SpecInfer(replacement=False)), "SpecInfer is for identical"), (dict(scheme=Block(), K=2), "Block verifies one sequence; K = 2"), (dict(scheme=Block()), "K = 4"),
    (dict(seed=[np.random.default_rng(0)] * 2), "seed"), (dict(seed=[1]), "seed"), (dict(seed=-1), "seed|non-negative")], ids=named)
def test_decoding_bad_settings_are_named_before_any_work(change, message):
    options = dict(dict(target=tiny("llama", 7, seed=3), drafts=Untouched(), prompts=[[1, 2]]), **change)
    with pytest.raises(ValueError, match=message): generate_multidraft(**options)


def test_decoding_bad_drafts_are_named_before_any_work():
    target, small = tiny("llama", 7, seed=3), tiny("llama", 7, seed=2)
    class Loud(LMDraft):
        def begin(self, prompts): raise AssertionError("work began")
    def refused(message, drafts, target=target, **options):
        with pytest.raises(ValueError, match=message): generate_multidraft(target, drafts, [[1, 2]], **options)
    refused("has 5 tokens, the target tiny-llama 7", Loud(tiny("llama", 5, seed=2)))
    refused("has 5 tokens", [Untouched(), Loud(tiny("llama", 5, seed=2))])
    one, other = toy_tokenizer(7), toy_tokenizer(7)
    other.add_tokens(["zz"])
    refused("tokenizers of .* differ", Loud(small._replace(tokenizer=other)), target._replace(tokenizer=one))
    with torch.device("meta"): elsewhere = tf.LlamaForCausalLM(target.model.config)
    refused("is on meta", Loud(lms.LM(elsewhere, None, "far")))
    for wrong in ("draft", None, 3, ["draft"], [None]): refused("is neither a Draft nor a language model", wrong)
    short = tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=7, n_embd=8, n_layer=1, n_head=1, n_positions=16, bos_token_id=0, eos_token_id=6)).eval()
    refused("do not fit into the context of short, 16", Loud(lms.LM(short, None, "short")), max_new_tokens=15)
    with pytest.raises(ValueError, match="temperature = -1"): LMDraft(small, [1.0, -1])
    with pytest.raises(ValueError, match="the list is empty"): LMDraft(small, [])
    with pytest.raises(ValueError, match="top_p = 2"): LMDraft(small, top_p=2)
    with pytest.raises(ValueError, match="least = 0"): NGramDraft(n=2, least=0)
    with pytest.raises(ValueError, match="n = 1, least = 2"): NGramDraft(n=1, least=2)
    with pytest.raises(ValueError, match="width = 0"): TopDraft(small, width=0)
    with pytest.raises(ValueError, match="nodes = 0"): TopDraft(small, nodes=0)


def test_decoding_same_tokenizer_twice_is_one_tokenizer():
    target, small = tiny("llama", 7, seed=3)._replace(tokenizer=toy_tokenizer(7)), tiny("llama", 7, seed=2)._replace(tokenizer=toy_tokenizer(7))
    done = generate_multidraft(target, LMDraft(small), ["bc", "d"], max_new_tokens=4, ends=())
    assert [row.text for row in done.rows] == [target.tokenizer.decode(row.response_ids, skip_special_tokens=True) for row in done.rows]
