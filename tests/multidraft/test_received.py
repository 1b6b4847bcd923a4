"""The engine as it works when the target is on a card, run on the CPU by saying that every tensor is elsewhere: the same distributions as those computed at each
node, exact texts under every rule, faults that the same checks catch, and how often a step waits for the device."""
from collections import Counter

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from multidraft.test_decoding import RAGGED, check_texts, chi_square, greedy, one_thread, tiny
from tokenstudy import lm as lms
from tokenstudy.lm.sampling import warp_unseen
from tokenstudy.multidraft import decoding, drafts as drafts_
from tokenstudy.multidraft.canonical import TruncatedLP
from tokenstudy.multidraft.decoding import (Choice, NodeDistributions, ReceivedDistributions, TargetDistributions, TokenLevel, generate_multidraft,
                                            receive_distributions, stream_multidraft)
from tokenstudy.multidraft.drafts import Distribution, LMDraft, NGramDraft, TopDraft, Tree
from tokenstudy.multidraft.optimal import Optimal
from tokenstudy.multidraft.rates import measure_blocks, study_rules
from tokenstudy.multidraft.schemes import NaiveLookup, Script, SingleDraft, SpecInfer, SpecTr, exact_distribution
from tokenstudy.multidraft.verification import LeafToRoot, Traversal


@pytest.fixture
def card(monkeypatch):
    "Every tensor counts as elsewhere."
    for module in (decoding, drafts_): monkeypatch.setattr(module, "elsewhere", lambda tensor: True)
    monkeypatch.setattr(lms.caches, "_always_masked", lambda device: False)


# --- numbers ------------------------------------------------------------------------------------------------------------------------------------------------

WARPINGS = [dict(), dict(temperature=.6), dict(top_k=4), dict(top_p=.7), dict(temperature=1.4, top_k=6, top_p=.8), dict(temperature=0)]


@pytest.mark.parametrize("warping", WARPINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_warping_without_a_look_gives_the_same_bits(warping, dtype):
    logits = (torch.randn(40, 6000, generator=torch.Generator().manual_seed(1)) * 4).round(decimals=1).to(dtype)
    logits[0, 7:] = -torch.inf
    assert torch.equal(warp_unseen(logits, **warping), lms.warp(logits, **warping))


@pytest.mark.parametrize("warping", WARPINGS, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, "nothing"])
def test_rows_that_are_not_finite_come_out_as_nan(warping, bad):
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(1))
    if bad == "nothing": logits[1] = -torch.inf
    else: logits[1, 4] = bad
    found = warp_unseen(logits, **warping)
    assert found[1].isnan().all() and torch.equal(found[[0, 2]], lms.warp(logits[[0, 2]], **warping))


def planted(seed, vocabulary, wide):
    "A random tree with two drafts of different supports, and logits at its nodes."
    rng, tree = np.random.default_rng(seed), Tree(1)
    size = vocabulary if wide else 4
    for node in (0, 1, 2):
        if node >= len(tree): break
        for _ in range(2):
            tokens = np.sort(rng.choice(vocabulary, size, replace=False))
            tree.draw(node, Distribution(tokens, rng.dirichlet(np.ones(size))), 2, rng)
    return tree, torch.from_numpy(rng.normal(size=(len(tree) + 1, vocabulary))) * 2


@pytest.mark.parametrize("warping", WARPINGS, ids=str)
@pytest.mark.parametrize("wide", (False, True))
@pytest.mark.parametrize("chunk", (1, 2 ** 28))
def test_what_is_received_is_what_is_computed_at_each_node(warping, wide, chunk, monkeypatch):
    monkeypatch.setattr(decoding, "_CHUNK", chunk)
    rows = [planted(seed, 60, wide) for seed in range(3)]
    widest = max(len(logits) for _, logits in rows)
    logits = torch.stack([torch.cat([one, one.new_zeros(widest - len(one), 60)]) for _, one in rows])
    found = receive_distributions(logits, [tree for tree, _ in rows], [np.random.default_rng(b) for b in range(3)], **warping)
    for (tree, one), received in zip(rows, found):
        computed = TargetDistributions(one, **warping)
        for node in range(len(tree)):
            assert received.certain(node) == computed.certain(node)
            np.testing.assert_allclose(received[node], computed[node], atol=1e-9)
            if not tree.draws[node]: continue
            whole = decoding.drafted_tokens([dist for dist, _ in tree.draws[node]])
            for tokens in (whole, whole[1:], np.array([0, 59])):
                for a, b in zip(received.at(node, tokens), computed.at(node, tokens)): np.testing.assert_allclose(a, b, atol=1e-9)


def test_tokens_drawn_ahead_have_the_distribution_and_are_given_once():
    tree, logits = planted(5, 12, False)
    tokens, whole, other = decoding.drafted_tokens([dist for dist, _ in tree.draws[0]]), Counter(), Counter()
    q = lms.warp(logits[0]).numpy()
    rest = NodeDistributions._without(q, tokens) / NodeDistributions._without(q, tokens).sum()
    rng = np.random.default_rng(0)
    for _ in range(3000):
        [one] = receive_distributions(logits[None], [tree], [rng])
        whole[one.draw(0, rng)] += 1
        other[one.draw_other(0, tokens, rng)] += 1
    for counts, p in ((whole, q), (other, rest)): assert chi_square(counts, {i: x for i, x in enumerate(p) if x > 0}) > 1e-4
    again, asked = one.again(), []
    one.draw = None
    for received in (receive_distributions(logits[None], [tree], [rng])[0],):
        spare = received.again()
        first = received.draw(0, rng), received.draw_other(0, tokens, rng)
        asked = [received.draw(0, Script([3])), received.draw_other(0, tokens, Script([int(np.flatnonzero(rest > 0)[-1])]))]
        assert asked == [3, np.flatnonzero(rest > 0)[-1]], "asked again, the generator that is given decides"
        assert first == (spare.draw(0, rng), spare.draw_other(0, tokens, rng)), "a copy has what was drawn ahead"
        assert spare.again().draw_other(1, tokens[:1], Script([11])) == 11, "other tokens than those that were asked for"


@pytest.mark.parametrize("warping", WARPINGS, ids=str)
@pytest.mark.parametrize("wide", (False, True))
def test_logits_that_are_not_finite_are_named(warping, wide):
    tree, logits = planted(2, 60, wide)
    logits[1, 3] = torch.nan
    with pytest.raises(ValueError, match="the target's logits hold NaN"): receive_distributions(logits[None], [tree], [np.random.default_rng(0)], **warping)


def test_a_draft_that_is_not_finite_is_named(card):
    draft = LMDraft(tiny("gpt2", 6, seed=2))
    with pytest.raises(ValueError, match="tiny-gpt2: its logits hold NaN"): draft._distributions(torch.full((2, 6), torch.nan))


# --- merged tokens ------------------------------------------------------------------------------------------------------------------------------------------

class Given(NodeDistributions):
    merges = True
    def __init__(self, q): self.q = q
    def __getitem__(self, node): return self.q


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scheme", [Optimal(), SpecTr(), SpecInfer(), TruncatedLP(), TruncatedLP(1, 2), NaiveLookup(), SingleDraft()], ids=lambda s: type(s).__name__)
def test_merging_what_the_target_never_says_changes_nothing(scheme, seed):
    rng = np.random.default_rng(seed)
    q, p = (rng.dirichlet(np.ones(6)) * (rng.random(6) < .6) for _ in range(2))
    q[0], p[1] = q[0] + .1, p[1] + .1
    q, p = q / q.sum(), p / p.sum()
    merged = Choice(Given(q), 0, [Distribution(np.flatnonzero(p), p[p > 0])] * 2)
    said = np.flatnonzero((q > 0) & (p > 0))
    assert merged.tokens.tolist() == said.tolist() and merged.q[len(said)] == 0
    found = exact_distribution(scheme, merged.q, merged.ps)
    np.testing.assert_allclose(found.distribution, [*q[said], 0, q[p == 0].sum()], atol=1e-12)
    if not isinstance(scheme, TruncatedLP) or scheme.omega0 == 40:
        assert abs(found.acceptance - exact_distribution(scheme, q, [p, p]).acceptance) < 1e-9


# --- whole texts --------------------------------------------------------------------------------------------------------------------------------------------

def text_cases():
    target, small = tiny("gpt2", 6, seed=1, dtype=torch.float32), tiny("gpt2", 6, seed=2, dtype=torch.float32)
    cold = dict(temperature=.5, top_k=4)
    for scheme in (Optimal(), SpecTr(), SpecInfer(), SpecInfer(replacement=False), TruncatedLP(), NaiveLookup(), Traversal(), LeafToRoot(Optimal())):
        yield scheme, LMDraft(small, 1.3), dict(K=3, **cold)
    yield TruncatedLP(), LMDraft(small, [1., 2.]), dict(top_p=.8)
    yield Traversal(), [LMDraft(small, 1.5, top_k=2), NGramDraft()], dict(temperature=.7)
    yield Optimal(), LMDraft(small, top_k=1), dict(K=2)                         # few tokens asked for: drawn ahead
    yield SpecTr(), LMDraft(small, top_k=1), dict(K=2, top_p=.9)


@pytest.mark.parametrize("number", range(12))
def test_texts_are_the_targets(number, card, monkeypatch):
    scheme, drafts, options = list(text_cases())[number]
    if number >= 10: monkeypatch.setattr(decoding, "_receive_rows", None)       # must not be what is tested there
    check_texts(tiny("gpt2", 6, seed=1, dtype=torch.float32), drafts, scheme, RAGGED * 150, 1, L=2, **options)


@pytest.mark.parametrize("fault", ["the others and the drafted", "the likeliest", "rows exchanged", "one number for all"])
def test_faults_are_caught(fault, card, monkeypatch):
    pick, receive = lms.pick, decoding.receive_distributions
    if fault == "the others and the drafted": monkeypatch.setattr(ReceivedDistributions, "draw_other", lambda self, node, tokens, rng: self._whole.pop(node))
    if fault == "the likeliest": monkeypatch.setattr(lms, "pick", lambda q, u: q.argmax(-1))
    if fault == "one number for all": monkeypatch.setattr(lms, "pick", lambda q, u: pick(q, torch.full_like(u, .3)))
    if fault == "rows exchanged": monkeypatch.setattr(decoding, "receive_distributions", lambda *args, **options: receive(*args, **options)[::-1])
    with pytest.raises((AssertionError, ValueError, KeyError)):
        for number in (10, 11):
            scheme, drafts, options = list(text_cases())[number]
            check_texts(tiny("gpt2", 6, seed=1, dtype=torch.float32), drafts, scheme, RAGGED * 150, 1, L=2, **options)


@pytest.mark.parametrize("family", ("llama", "qwen", "gpt2", "opt"))
def test_greedy_texts_are_greedy(family, card):
    target, small = tiny(family, 24, seed=1), tiny(family, 24, seed=2)
    wanted = [greedy(target, prompt, 12) for prompt in RAGGED]
    for drafts, scheme in ((LMDraft(small), None), (LMDraft(target, [1.2, 2.]), Traversal()), (TopDraft(small), NaiveLookup()), (NGramDraft(), None)):
        done = generate_multidraft(target, drafts, RAGGED, scheme=scheme, L=3, max_new_tokens=12, temperature=0, ends=())
        assert [row.response_ids for row in done.rows] == wanted


def test_prescribed_outcomes_are_obeyed(card):
    target = tiny("gpt2", 6, seed=1)
    one = generate_multidraft(target, LMDraft(target), [[1]], K=1, L=1, max_new_tokens=2, ends=(), seed=[Script([2, 0, 1, 3])])
    assert one.rows[0].response_ids == [2, 3]


# --- waits --------------------------------------------------------------------------------------------------------------------------------------------------

class Waits(TorchFunctionMode):
    "Counts the calls for which a host waits for its card."
    NAMES = {"cpu", "item", "tolist", "numpy", "nonzero", "unique", "__bool__", "__int__", "__float__", "__index__", "__len__"} - {"__len__"}
    def __init__(self):
        super().__init__()
        self.calls = Counter()
    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        # what was brought to the host by .cpu() is the host's
        if name in self.NAMES and not (name == "numpy" and self.calls["cpu"]): self.calls[name] += 1
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("rows", (1, 4))
@pytest.mark.parametrize("number", range(6))
def test_a_step_waits_once_for_each_level_and_once_for_the_target(number, rows, card):
    target, small = tiny("llama", 24, seed=1, dtype=torch.float32), tiny("llama", 24, seed=2, dtype=torch.float32)
    drafts, scheme, options = [(LMDraft(small), Optimal(), {}), (LMDraft(small, 1.2, top_k=3), Optimal(), {}), (LMDraft(small, 1.2), SpecTr(), dict(top_p=.9)),
                               (LMDraft(small, [1.2, 2.]), TruncatedLP(), dict(top_p=.9)), (LMDraft(small, 1.2, top_p=.9), Traversal(), dict(top_k=5)),
                               (TopDraft(small), NaiveLookup(), dict(temperature=0))][number]
    L = 3
    stream = stream_multidraft(target, drafts, [[1, 2, 3], [4, 5], [6], [7, 8]][:rows], scheme=scheme, K=drafts.count or 4, L=L, max_new_tokens=12, ends=(), **options)
    next(stream)
    for _ in range(4):
        with Waits() as waits: step, _ = next(stream)
        # one more where a text ends on a token whose distribution nobody drafted from
        assert 1 <= waits.calls.total() <= L + 1, waits.calls


def test_the_count_of_waits_counts():
    with Waits() as waits: bool(torch.ones(1)), float(torch.ones(1)), torch.ones(1).cpu(), torch.ones(2).tolist(), torch.ones(2).nonzero(), int(torch.ones(1))
    assert waits.calls.total() == 6


def test_rules_beside_each_other_on_received_distributions(card):
    "Every verdict beside has the whole of what was drawn ahead: pruned trees, different drafts."
    target, small = tiny("gpt2", 24, seed=1), tiny("gpt2", 24, seed=2)
    for drafts in (LMDraft(small, 1.2, top_k=2), LMDraft(small, [1.2, 2.], top_k=2)):
        others = {f"{name} {k} {l}": (rule, k, l) for name, rule in study_rules(drafts.identical).items() for k in (1, 2) for l in (1, 3)}
        found = measure_blocks(target, drafts, [[1, 2], [3]], others=others, K=2, L=3, max_new_tokens=30)
        for name, one in found.items():
            be, least = sum(one["tokens"]) / sum(one["calls"]), 1 if "1" in name.split()[2] else 1
            assert least <= be <= int(name.split()[2]) + 1
