"What decoding rates are computed from: pruned trees, rules judged beside others, the cost model."
from collections import Counter
from unittest import mock

import numpy as np
import pytest

from tokenstudy import core, lm as lms
from tokenstudy.multidraft import rates, verification
from tokenstudy.multidraft.schemes import all_branches
from tokenstudy.multidraft.drafts import LMDraft, TopDraft, Tree
from tokenstudy.multidraft.decoding import TokenLevel, generate_multidraft
from tokenstudy.multidraft.optimal import Optimal
from tokenstudy.multidraft.schemes import SingleDraft, SpecInfer
from tokenstudy.multidraft.canonical import TruncatedLP
from tokenstudy.multidraft.verification import LeafToRoot, TableDistributions, Traversal, decode_table, grow


def table(seed, n=2):
    known = {}
    def dist(prefix): return known.setdefault(prefix, np.random.default_rng([seed, *prefix]).dirichlet(np.ones(n)))
    return dist


def shape(tree): return sorted((tuple(tree.path(v)), len(tree.draws[v]), tuple(tree.tokens[c] for _, c in tree.draws[v])) for v in range(len(tree)))


@pytest.mark.parametrize("seed", range(5))
def test_decoding_pruned_tree_is_that_of_the_first_sequences(seed):
    toy, rng = lms.tiny_lm(vocab=5, seed=seed), np.random.default_rng(seed)
    draft, tree = LMDraft(toy), Tree(1)
    draft.begin([[1]])
    draft.propose([tree], [4], 5, [rng])
    sequences = rates.paths_of(tree, 5)
    assert all(len(one) == 4 for one in sequences)
    for K in range(1, 6):
        for L in range(1, 5):
            built = Tree(1)
            for one in sequences[:K]:
                node = 0
                for dist, v in one[:L]: node = built.grow(node, tree.tokens[v], dist)
            pruned, old = rates.prune(tree, sequences, K, L=L)
            assert shape(pruned) == shape(built)
            assert [tree.path(v) for v in old] == [pruned.path(v) for v in range(len(pruned))]


@pytest.mark.parametrize("rule", [TokenLevel(Optimal()), TokenLevel(SpecInfer()), Traversal(), LeafToRoot(Optimal())], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("K, L", [(1, 2), (2, 1), (2, 2)])
def test_decoding_rule_judged_beside_another_is_the_rule_alone(rule, K, L):
    "Exactly: the expected number of tokens on pruned trees is that on trees of that size."
    target, draft = table(1), table(2)
    def alone(rng):
        tree = grow([draft] * K, (), L, rng=rng)
        return len(rule.verify(tree, TableDistributions(target, (), tree), rng)[0]) + 1
    def beside(rng):
        tree = grow([draft] * 2, (), 2, rng=rng)
        judge = rates.Beside(TokenLevel(SpecInfer()), dict(it=(rule, K, L), whole=(Traversal(), 2, 2)))
        judge.rng, judge.others = rng, dict(it=judge.others["it"])
        judge.rule = type("None", (), dict(verify=lambda self, *a: ([], 0)))()
        judge.verify(tree, TableDistributions(target, (), tree), rng)
        return judge.tokens["it"][0]
    mean = lambda run: sum(weight * tokens for weight, tokens in all_branches(run))
    assert abs(mean(alone) - mean(beside)) < 1e-12


def test_decoding_block_efficiency_beside_agrees_with_the_engine():
    target, small = lms.tiny_lm(vocab=8, seed=1), lms.tiny_lm(vocab=8, seed=2)
    prompts = [[1, 2]] * 60
    found = rates.measure_blocks(target, LMDraft(small), prompts, others=dict(it=(TokenLevel(Optimal()), 2, 2), most=(Traversal(), 3, 3)), K=3, L=3, max_new_tokens=12)
    mean, low, high = rates.efficiency([found["it"]])
    alone = generate_multidraft(target, LMDraft(small), prompts, scheme=Optimal(), K=2, L=2, max_new_tokens=12).block_efficiency
    assert abs(mean - alone) < 3 * (high - low)


def test_decoding_costs_interpolate_and_predict():
    costs = rates.Costs({1: .04, 8: .06, 16: .08}, .001, .002)
    assert costs.target_call(4.5) == pytest.approx(.05) and costs.target_call(100) == .08
    assert costs.rate(2.0, 8, 4) == pytest.approx(2 / .066)


def test_decoding_tune_prefers_the_better_draft(monkeypatch):
    monkeypatch.setattr(rates, "draft_cost", lambda *a, **k: .01)
    target, other = lms.tiny_lm(vocab=12, seed=1), lms.tiny_lm(vocab=12, seed=9)
    found = rates.tune(target, dict(good=LMDraft(target), poor=LMDraft(other), top=TopDraft(target, nodes=4)), [[1, 2], [3]], K=2, L=3, max_new_tokens=8,
                       costs={1: 1.0, 16: 1.0})
    assert found[0]["draft"] == "good" and found[0]["L"] == 3
    assert [one["rate"] for one in found] == sorted((one["rate"] for one in found), reverse=True)


def test_decoding_prompt_files(tmp_path):
    file = tmp_path/"questions.jsonl"
    file.write_text('{"question": "How many?"}\n\n{"prompt": "Say it."}\n', encoding="utf-8")
    assert sorted(rates.prompt_set(str(file))) == ["How many?", "Say it."]
    file.write_text('{"answer": "4"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: none of the fields"): rates.prompt_set(str(file))
    with pytest.raises(core.MissingModelError, match="hub|datasets"): rates.prompt_set("dolly")


@pytest.mark.parametrize("scheme, drafts", [(SingleDraft(), 1), (Optimal(), 2), (Optimal(), 3), (TruncatedLP(), 2)], ids=lambda x: getattr(type(x), "__name__", x))
def test_sequence_distribution_of_lifted_schemes(scheme, drafts):
    "Texts of three tokens by `LeafToRoot`, every branch enumerated; a rule that keeps the old probability after a failure is caught."
    target, dist, length = table(3, 2), Counter(), 3
    def text(rule): return lambda rng: decode_table(rule, target, [table(4)] * drafts, length=length, L=2, rng=rng)[0]
    truth = {(): 1.0}
    for _ in range(length): truth = {ids + (x,): w * p for ids, w in truth.items() for x, p in enumerate(target(ids))}
    for weight, ids in all_branches(text(LeafToRoot(scheme))): dist[ids] += weight
    assert max(abs(dist[ids] - p) for ids, p in truth.items()) < 1e-12
    bent, rightly = Counter(), verification.leftover
    with mock.patch.object(verification, "leftover", lambda p, q, s: (p, rightly(p, q, s)[1])):
        for weight, ids in all_branches(text(LeafToRoot(scheme))): bent[ids] += weight
    assert max(abs(bent[ids] - p) for ids, p in truth.items()) > 1e-4


def test_decoding_lifted_scheme_must_select_one_token():
    with pytest.raises(ValueError, match="SpecInfer does not select one token"): LeafToRoot(SpecInfer())


@pytest.mark.parametrize("text, way_out", [
    ("Dataset scripts are no longer supported, but found xsum.py", "name a parquet revision"),
    ("GatedRepoError: 403 Client Error. Cannot access gated repo", "accept the licence on its page, https://huggingface.co/datasets/EdinburghNLP/xsum, and run `hf auth login`"),
    ("401 Client Error: you must be authenticated", "hf auth login"), ("OfflineModeIsEnabled: offline mode", "HF_HUB_OFFLINE"),
    ("Couldn't reach 'EdinburghNLP/xsum' on the Hub (LocalEntryNotFoundError)", "check the network"), ("Read timed out.", "check the network"),
    ("Revision Not Found: RevisionNotFoundError", "no such revision or file"), ("Unable to find 'hf://x'", "no such revision or file"),
    ("the disk is full", "OSError: the disk is full")])
def test_trouble_with_the_hub_is_named(text, way_out, monkeypatch):
    import datasets
    def fails(place, **options):
        try: raise OSError(text)
        except OSError as e: raise RuntimeError("it failed") from e
    monkeypatch.setattr(datasets, "load_dataset", fails if "disk" not in text else lambda *a, **k: (_ for _ in ()).throw(OSError(text)))
    with pytest.raises(core.MissingModelError, match="could not load EdinburghNLP/xsum at refs/convert/parquet") as found: rates.prompt_set("xsum")
    assert way_out in str(found.value)


def test_sets_of_the_hub_are_asked_for_by_revision_and_file(monkeypatch):
    "One split of parquet or JSON lines, never a script; a row without the field is named."
    import datasets
    rows = dict(question="Q", instruction="I", document="D", translation=dict(de="G"))
    asked = {}
    def load(place, *, data_files, split, revision):
        asked[place] = revision, *data_files.values()
        return [rows]
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert {name: rates.prompt_set(name) for name in rates._HUB} == dict(gsm8k=["Q"], dolly=["I"], xsum=["D\nSummary:"], wmt=["German: G\nEnglish:"])
    assert all(files.endswith((".parquet", ".jsonl")) and "train-" not in files for _, files in asked.values())
    rows.pop("document")
    with pytest.raises(core.MissingModelError, match="no field 'document'"): rates.prompt_set("xsum")


@pytest.mark.parametrize("batch_size", (2, 5))
def test_prompts_side_by_side_are_measured_as_one_after_the_other(batch_size):
    target, small = (lms.tiny_lm("gpt2", vocab=16, seed=seed) for seed in (1, 2))
    for one in (target, small): one.model.double()
    others = {f"{name} {k}": (rule, k, 2) for name, rule in rates.study_rules().items() for k in (1, 2)}
    options = dict(others=others, K=2, L=2, max_new_tokens=9)
    prompts = [[1, 2, 3], [4], [5, 6], [7], [8, 9, 3, 1]]
    alone = rates.measure_blocks(target, LMDraft(small), prompts, **options)
    assert rates.measure_blocks(target, LMDraft(small), prompts, **options, batch_size=batch_size) == alone
    assert len(set(map(tuple, alone["Traversal 2"].values()))) == 3

