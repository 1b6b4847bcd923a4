NODES = """
class Fair(NodeDistributions):
    def __getitem__(self, node):
        if not 0 <= node < 3: raise ValueError(f'node = {node}: there are 3')
        return np.array([.5, .25, .25])
tree = Tree(0)
tree.draw(0, Distribution(np.array([1]), np.ones(1)), 1, np.random.default_rng(0))
"""
RECEIVED = """
tree, rng, one = Tree(1), np.random.default_rng(0), Distribution(np.array([2]), np.ones(1))
tree.draw(0, one, 1, rng)
[found] = receive_distributions(torch.zeros(1, 2, 40), [tree], [rng])
"""
CHOICE = NODES + "choice = Choice(Fair(), 0, [Distribution(np.array([1]), np.ones(1))])\n"
LOGITS = "target = TargetDistributions(torch.tensor([[0., 2., 1.]]), 0.0)\n"
TREE = "tree, rng, one = Tree(7), np.random.default_rng(0), Distribution(np.array([2]), np.ones(1))\ntree.draw(0, one, 1, rng)\n"
STARTED = """
model = lms.tiny_lm(vocab=12)
draft = {}
trees, rngs = [Tree(2)], [np.random.default_rng(0)]
draft.begin([[1, 2, 3, 1, 2]])
"""
PROPOSED = STARTED + "draft.propose(trees, [1], 1, rngs)\n"
DRAFT = """
draft = DraftLM(DraftConfig(vocab_size=24, shortlist_size=10, rank=8, num_attention_heads=2))
draft.shortlist.copy_(torch.arange(10))
ids = torch.tensor([[1, 2, 3]])
"""
TWO = "{0}.prepare([.7, .3], [[.4, .6]] * 2)\nrng = np.random.default_rng(0)\n"
CORPUS = """
import tempfile
options = dict(template=([1, 2], [22, 3], [5, 2]), rows=2, length=8, top=12)
files = sample_corpus(lm.tiny_lm(vocab=24), tempfile.mkdtemp(), 2, **options)
"""
SEEN = {
    "multidraft.canonical.TruncatedLP.choose": ("multidraft.canonical", "import numpy as np\nscheme = TruncatedLP(s=1)\nscheme.prepare([.7, .3], [[.4, .6]] * 2)\nscheme.choose([0, 1], np.random.default_rng(0))"),
    "multidraft.decoding.NodeDistributions.certain": ("multidraft.decoding", NODES + "Fair().certain(0)"),
    "multidraft.decoding.NodeDistributions.at": ("multidraft.decoding", NODES + "Fair().at(0, np.array([1]))"),
    "multidraft.decoding.NodeDistributions.draw": ("multidraft.decoding", NODES + "Fair().draw(0, np.random.default_rng(0))"),
    "multidraft.decoding.ReceivedDistributions.at": ("multidraft.decoding", RECEIVED + "found.at(0, np.array([2]))"),
    "multidraft.decoding.ReceivedDistributions.draw": ("multidraft.decoding", RECEIVED + "found.draw(0, rng)"),
    "multidraft.decoding.ReceivedDistributions.draw_other": ("multidraft.decoding", RECEIVED + "found.draw_other(0, np.array([2]), rng)"),
    "multidraft.decoding.NodeDistributions.draw_other": ("multidraft.decoding", NODES + "Fair().draw_other(0, np.array([1]), np.random.default_rng(0))"),
    "multidraft.decoding.TargetDistributions.certain": ("multidraft.decoding", LOGITS + "target.certain(0)"),
    "multidraft.decoding.TargetDistributions.at": ("multidraft.decoding", LOGITS + "target.at(0, np.array([1]))"),
    "multidraft.decoding.Choice.index": ("multidraft.decoding", CHOICE + "choice.index(1)"),
    "multidraft.decoding.Choice.token": ("multidraft.decoding", CHOICE + "choice.token(0, np.random.default_rng(0))"),
    "multidraft.decoding.Verification.verify": ("multidraft.decoding", NODES + "Verification().verify(tree, Fair(), np.random.default_rng(0))"),
    "multidraft.decoding.TokenLevel.verify": ("multidraft.decoding", NODES + "TokenLevel(TruncatedLP()).verify(tree, Fair(), np.random.default_rng(0))"),
    "multidraft.decoding.Multidraft.__call__": ("multidraft.decoding", "lm = lms.tiny_lm(vocab=12)\nlm.model.generate(torch.tensor([[1, 2]]), custom_generate=Multidraft(lm, K=1), max_new_tokens=2, do_sample=True)"),
    "multidraft.distillation.make_draft": ("multidraft.distillation", CORPUS + "make_draft(lm.tiny_lm(vocab=24), files[0].parent, 'small')"),
    "multidraft.distillation.embed_draft": ("multidraft.distillation", "embed_draft('small', DraftLM(DraftConfig(vocab_size=24, shortlist_size=10, rank=8, num_attention_heads=2)))"),
    "multidraft.distilled.ShortlistEmbedding.forward": ("multidraft.distilled", DRAFT + "draft.embed_tokens.forward(ids)"),
    "multidraft.distilled.DraftLM.features": ("multidraft.distilled", DRAFT + "draft.features(ids)"),
    "multidraft.distilled.DraftLM.spread": ("multidraft.distilled", DRAFT + "draft.spread(torch.zeros(1, 10))"),
    "multidraft.distilled.DraftLM.forward": ("multidraft.distilled", DRAFT + "draft.forward(ids)"),
    **{f"multidraft.schemes.{name}.{call.partition('(')[0]}": ("multidraft.schemes", "scheme = " + TWO.format(made) + f"scheme.{call}")
       for name, made, calls in (("Scheme", "Scheme()", ("prepare([.7, .3], [[.4, .6]] * 2)", "choose([0, 1], rng)", "draft(rng)", "check([0, 1])", "select([0, 1], rng)")),
                                 ("SpecTr", "SpecTr()", ("select([0, 1], rng)",)), ("SpecInfer", "SpecInfer()", ("select([0, 1], rng)", "draft(rng)")),
                                 ("NaiveLookup", "NaiveLookup()", ("select([0, 1], rng)",))) for call in calls},
    "multidraft.schemes.SingleDraft.choose": ("multidraft.schemes", "SingleDraft().prepare([.7, .3], [[.4, .6]]).choose([1], np.random.default_rng(0))"),
    "multidraft.schemes.Scheme.redraw": ("multidraft.schemes", "SingleDraft().prepare([.7, .3], [[.4, .6]]).redraw(np.random.default_rng(0))"),
    "multidraft.schemes.Script.draw": ("multidraft.schemes", "Script([0]).draw([.5, .5])"),
    "multidraft.schemes.Script.flip": ("multidraft.schemes", "Script([0]).flip(.5)"),
    **{f"multidraft.verification.{name}.verify": ("multidraft.verification", f"""
def one(text): return [.5, .5]
tree = grow([one], (), 2, rng=np.random.default_rng(0))
{name}().verify(tree, TableDistributions(one, (), tree), np.random.default_rng(0))""") for name in ("Block", "Traversal")},
    "multidraft.rates.Beside.verify": ("multidraft.rates", """
target, others = lms.tiny_lm(vocab=12), dict(single=(TokenLevel(Optimal()), 1, 2))
measure_blocks(target, LMDraft(target), [[1, 2]], others=others, K=2, L=2, max_new_tokens=4)"""),
    "multidraft.rates.Costs.target_call": ("multidraft.rates", "Costs({1: .01, 4: .02}, .001, .001).target_call(2.)"),
    "multidraft.rates.Costs.rate": ("multidraft.rates", "Costs({1: .01, 4: .02}, .001, .001).rate(2., 2., 1)"),
    "multidraft.drafts.Distribution.draw": ("multidraft.drafts", "Distribution(np.array([2]), np.ones(1)).draw(np.random.default_rng(0))"),
    "multidraft.drafts.Tree.draw": ("multidraft.drafts", TREE + "tree.draw(0, one, 1, rng)"),
    "multidraft.drafts.Tree.add": ("multidraft.drafts", TREE + "tree.add(0, 2, one)"),
    "multidraft.drafts.Tree.grow": ("multidraft.drafts", TREE + "tree.grow(0, 2, one)"),
    "multidraft.drafts.Tree.path": ("multidraft.drafts", TREE + "tree.path(1)"),
    **{f"multidraft.drafts.Draft.{call.partition('(')[0]}": ("multidraft.drafts", f"Draft().{call}") for call in (
        "check(lms.tiny_lm(vocab=12))", "check_length(4)", "begin([[1]])", "propose([Tree(2)], [1], 1, [np.random.default_rng(0)])",
        "advance([Tree(2)], [[]], [3])", "select([0])")},
    **{f"multidraft.drafts.{name}.{call.partition('(')[0]}": ("multidraft.drafts", before.replace("{}", made) + f"draft.{call}")
       for name, made in {"LMDraft": "LMDraft(model)", "NGramDraft": "NGramDraft()", "TopDraft": "TopDraft(model)", "Mixed": "Mixed([NGramDraft()])"}.items()
       for before, call in ((STARTED, "check(lms.tiny_lm(vocab=12))"), (STARTED, "check_length(4)"), (STARTED, "begin([[1]])"), (STARTED, "distribution(0)"),
                            (STARTED, "propose(trees, [1], 1, rngs)"), (PROPOSED, "advance(trees, [[]], [3])"), (PROPOSED + "draft.advance(trees, [[]], [3])\n", "select([0])"))
       if not (name == "TopDraft" and not call.startswith("propose") or name != "NGramDraft" and call.startswith("distribution")
               or name == "NGramDraft" and call.startswith("check"))},
    "multidraft.optimal.Optimal.choose": ("multidraft.optimal", "scheme = Optimal()\nscheme.prepare(np.array([.7, .3]), [np.array([.4, .6])] * 2)\nscheme.choose([0, 1], np.random.default_rng(0))"),
}
SAME = {"multidraft.acceptance.compare_schemes": {"p": ["ps[0]"]}, "multidraft.acceptance.draw_comparison": {"p": ["ps[0]"]},
        "multidraft.optimal.optimal_selection_distribution": {"p": ["ps[0]"]}, "multidraft.schemes.as_distribution": {"values": ["q"]}, "multidraft.decoding.NodeDistributions.draw_other": {"tokens": ["weights"]}, "multidraft.schemes.Scheme.choose": {"drafts": ["select one token"], "rng": ["select one token"]},
        "multidraft.schemes.Scheme.select": {"rng": ["select one token"]}, "multidraft.distilled.read_draft": {"path": ["draft"]},
        "multidraft.distillation.make_draft": {"name": ["folder"], "folder": ["target"]},
        "multidraft.rates.prompt_set": {"name": ["prompts"]}, "multidraft.rates.efficiency": {"parts": ["values"]}, "multidraft.rates.draft_cost": {"prompt": ["prompts"]}, "multidraft.decoding.scheme_named": {"name": ["scheme"]},
        "multidraft.distilled.load_draft": {"name": ["draft"]}, "multidraft.bench.decoding_rows": {"target": ["lm"]},
        "multidraft.distilled.DraftConfig": {"vocab_size": ["vocabulary"]}, "multidraft.distillation.distill": {"leave_out": ["corpus", "files"], "epochs": ["num_steps"]}}
ANY: set = {"multidraft.distillation.make_draft", "multidraft.distillation.embed_draft", "multidraft.decoding.Verification.verify", "multidraft.drafts.Draft.begin",
            "multidraft.drafts.Draft.propose", "multidraft.drafts.Draft.advance", "multidraft.drafts.Draft.select", "multidraft.schemes.Scheme.choose",
            "multidraft.schemes.Scheme.select"}
LONG: set = {"multidraft.distilled.load_draft", "multidraft.bench.decoding_rows", "multidraft.bench.selection_rows", "multidraft.decoding.generate_multidraft",
             "multidraft.distillation.distill", "multidraft.drafts.Tree.draw"}
NEVER: dict = {}

# Legal all the same: the result is of the valid call's kind, or a work that begins
LEGAL = {
    "multidraft.acceptance.summarise": {"records": "[]|generator"},
    "multidraft.bench.made_distributions": {"top_k": "0", "seed": "0"},
    "multidraft.bench.selection_rows": {"lp_sizes": "[]|[[]]|[None]|[object]|generator", "model": "|text"},
    "multidraft.bench.decoding_rows": {"models": "{}|other keys|number keys"},
    "multidraft.canonical.membership": {"tuples": "short"},
    "multidraft.canonical.TruncatedLP.choose": {"rng": "None|1|text|[]|{}|object"},
    "multidraft.canonical.TruncatedLP": {"skip": "[]"},
    "multidraft.canonical.truncation_bound": {"s": "0"},
    "multidraft.decoding.NodeDistributions.certain": {"node": "1.5|0|True"},
    "multidraft.decoding.NodeDistributions.at": {"node": "1.5|0|True", "tokens": "None|[]|deep"},
    "multidraft.decoding.NodeDistributions.draw": {"node": "1.5|0|True"},
    "multidraft.decoding.ReceivedDistributions": {"logits": "nan", "warping": "{}|other keys|number keys", "greedy": "[]|generator"},
    "multidraft.decoding.ReceivedDistributions.at": {"node": "-1|0", "tokens": "[]|deep"},
    "multidraft.decoding.ReceivedDistributions.draw": {"node": "None|-1|0|True", "rng": "None|1|text|[]|{}|object"},
    "multidraft.decoding.ReceivedDistributions.draw_other": {"node": "-1|0", "tokens": "[]|deep", "rng": "None|1|text|[]|{}|object"},
    "multidraft.decoding.receive_distributions": {"temperature": "0", "top_k": "0"},
    "multidraft.decoding.NodeDistributions.draw_other": {"node": "1.5|0|True", "tokens": "[]|deep"},
    "multidraft.decoding.TargetDistributions": {"logits": "deep", "temperature": "0", "top_k": "0", "top_p": "0"},
    "multidraft.decoding.TargetDistributions.certain": {"node": "-1|0"},
    "multidraft.decoding.TargetDistributions.at": {"node": "-1|0", "tokens": "None|[]|deep"},
    "multidraft.decoding.Choice": {"node": "None|text|1.5|nan|inf|-1|0|huge|[]|object|True"},
    "multidraft.decoding.Choice.index": {"token": "text|1.5|nan|inf|-1|0|huge|True"},
    "multidraft.decoding.Choice.token": {"index": "1.5|nan|inf|-1|0|huge|True", "rng": "None|1|text|[]|{}|object"},
    "multidraft.decoding.Multidraft.__call__": {"logits_processor": "[]", "stopping_criteria": "[]"},
    "multidraft.decoding.Step": {
        "tokens": "[]|{}|other keys|number keys", "active": "[]|{}|other keys|number keys", "nodes": "[]|{}|other keys|number keys",
        "seconds": "[]|{}|other keys|number keys"},
    "multidraft.decoding.Row": {"prompt_ids": "[]|[[]]|[None]|[object]|{}|[nan]", "response_ids": "[]|{}", "finished": "[]", "text": "[]"},
    "multidraft.decoding.Decoding": {"rows": "[]|[[]]|[None]|[object]|{}|[nan]", "steps": "[]|[[]]|[None]|[object]|{}|[nan]", "prefill": "[]"},
    "multidraft.decoding.check_setting": {"temperature": "0", "top_k": "0"},
    "multidraft.decoding.stream_multidraft": {
        "temperature": "0", "top_k": "0", "seed": "0", "stop_strings": "[]|generator", "ends": "1|[]|[None]|[object]|{}|generator"},
    "multidraft.decoding.generate_multidraft": {
        "temperature": "0", "top_k": "0", "seed": "0", "stop_strings": "[]|generator", "ends": "1|[]|[None]|[object]|{}|generator"},
    "multidraft.decoding.Multidraft": {"tokenizer": "1|text|[]|{}|object", "streamer": "1|text|[]|{}|object"},
    "multidraft.distillation.overlap": {"q": "nan", "p": "nan"},
    "multidraft.distillation.sample_dialogues": {"seed": "0"},
    "multidraft.distillation.sample_corpus": {"folder": "missing|folder", "rounds": "0", "seed": "0"},
    "multidraft.distillation.distillation_loss": {"features": "nan", "q": "nan", "tv": "0"},
    "multidraft.distillation.distill": {
        "device": "",
        "tv": "0", "weight_decay": "0", "warmup": "0", "always": "[]|{}|generator", "looks": "0", "checkpoint": "missing|folder",
        "save_every": "inf|0", "seed": "0"},
    "multidraft.distillation.make_draft": {"target": "None|1|bytes|[]|object||missing|folder", "folder": "None|1|bytes|[]|object||missing|folder"},
    "multidraft.distillation.embed_draft": {"name": "text", "seed": "0"},
    "multidraft.distillation.acceptance_profile": {"texts": "[]|generator", "temperatures": "[]|{}|generator"},
    "multidraft.distillation.evaluate": {"temperatures": "[]|generator"},
    "multidraft.distilled.ShortlistEmbedding.forward": {"ids": "deep"},
    "multidraft.distilled.DraftLM.features": {"input_ids": "deep"},
    "multidraft.distilled.DraftLM.spread": {"logits": "deep|nan"},
    "multidraft.distilled.DraftLM.forward": {"input_ids": "deep", "logits_to_keep": "-1|0"},
    "multidraft.distilled.nearest_shortlisted": {"embedding": "nan", "shortlist": "short"},
    "multidraft.distilled.new_draft": {"device": "", "frequency": "nan", "always": "[]|{}|generator", "seed": "0"},
    "multidraft.distilled.write_draft": {"path": "missing"},
    "multidraft.distilled.read_draft": {"device": "", "dtype": ""},
    "multidraft.distilled.load_draft": {"device": "", "dtype": ""},
    "multidraft.drafts.Distribution": {"tokens": "[]|ragged|texts|{}|deep|short", "probs": "[]|ragged|texts|{}|deep|nan|short"},
    "multidraft.drafts.distributions_of": {"temperature": "0", "top_k": "0"},
    "multidraft.drafts.Tree": {"root": "-1|0"},
    "multidraft.drafts.Tree.draw": {"node": "-1|0", "count": "-1|0|huge|True", "replacement": "None|text|2|[]|object"},
    "multidraft.drafts.Tree.add": {"node": "0"},
    "multidraft.drafts.Tree.grow": {"node": "-1|0", "token": "None|text|1.5|nan|inf|-1|0|huge|object|True", "dist": "None|1|text|[]|{}|object"},
    "multidraft.drafts.Tree.path": {"node": "None|-1|0|[]|True"},
    "multidraft.drafts.Draft.check_length": {"tokens": "-1|0"},
    "multidraft.drafts.LMDraft": {"temperature": "1", "top_k": "0"},
    "multidraft.drafts.LMDraft.check_length": {"tokens": "0"},
    "multidraft.drafts.LMDraft.begin": {"prompts": "[[]]"},
    "multidraft.drafts.LMDraft.propose": {"trees": "[]|generator", "lengths": "[]|generator", "count": "-1|0", "rngs": "[]|generator"},
    "multidraft.drafts.LMDraft.advance": {
        "trees": "[]|[[]]|[None]|[object]|generator|[nan]", "paths": "[[]]", "tokens": "[]|[[]]|[None]|[object]|generator|[nan]"},
    "multidraft.drafts.NGramDraft.begin": {"prompts": "[]|[[]]"},
    "multidraft.drafts.NGramDraft.propose": {"trees": "[]|generator", "lengths": "[]|generator", "count": "-1|0", "rngs": "[]|generator"},
    "multidraft.drafts.NGramDraft.advance": {
        "trees": "[]|[[]]|[None]|[object]|generator|[nan]", "paths": "[]|[[]]|generator", "tokens": "[]|[None]|[object]|generator|[nan]"},
    "multidraft.drafts.NGramDraft.select": {"rows": "[]|generator"},
    "multidraft.drafts.TopDraft.propose": {
        "trees": "[]|generator", "lengths": "[]|generator", "count": "-1|0", "rngs": "[]|[[]]|[None]|[object]|generator|[nan]"},
    "multidraft.drafts.Mixed.check_length": {"tokens": "-1|0"},
    "multidraft.drafts.Mixed.begin": {"prompts": "[]|[[]]"},
    "multidraft.drafts.Mixed.propose": {"trees": "[]|generator", "lengths": "[]|generator", "count": "-1|0", "rngs": "[]|generator"},
    "multidraft.drafts.Mixed.advance": {
        "trees": "[]|[[]]|[None]|[object]|generator|[nan]", "paths": "[]|[[]]|generator", "tokens": "[]|[None]|[object]|generator|[nan]"},
    "multidraft.drafts.Mixed.select": {"rows": "[]|generator"},
    "multidraft.optimal.lorenz": {"q": "nan", "p": "nan"},
    "multidraft.optimal.is_lossless_acceptance_one": {"tolerance": "inf|0"},
    "multidraft.rates.prune": {"sequences": "[]|[[]]"},
    "multidraft.rates.Beside": {"seed": "0"},
    "multidraft.rates.measure_blocks": {"prompts": "generator", "seed": "0", "temperature": "0", "top_k": "0"},
    "multidraft.rates.Costs.rate": {"calls": "0"},
    "multidraft.rates.Costs": {"target": "[]|{}|other keys|number keys", "draft": "[]", "other": "[]"},
    "multidraft.rates.target_costs": {"sizes": "generator"},
    "multidraft.rates.tune": {"drafts": "{}", "costs": "{}|number keys", "other": "0"},
    "multidraft.rates.prompt_set": {"seed": "0"},
    "multidraft.schemes.flip": {"probability": "inf|-1|0|True"},
    "multidraft.schemes.draw": {"weights": "1"},
    "multidraft.schemes.draw_cumulative": {"total": "short"},
    "multidraft.schemes.Script": {"outcomes": "[]|[[]]|[None]|[object]|generator|[nan]"},
    "multidraft.schemes.Script.flip": {"probability": "0"},
    "multidraft.schemes.as_distribution": {"name": "|text"},
    "multidraft.schemes.identical": {"ps": "[]|[[]]|[None]|[object]|generator|[nan]"},
    "multidraft.schemes.SingleDraft.choose": {"rng": "None|1|text|[]|{}|object"},
    "multidraft.schemes.SpecTr": {"rho": "[]"},
    "multidraft.schemes.SpecInfer": {"replacement": "[]"},
    "multidraft.verification.leftover": {"p": "0", "q": "nan|short", "s": "nan|short"},
    "multidraft.verification.TableDistributions": {"text": "[]|[[]]|[None]|[object]|generator|[nan]"},
    "multidraft.verification.decode_table": {"drafts": "[]", "length": "0"},
    "multidraft.drafts.NGramDraft.distribution": {"b": "0", "suffix": "[]|generator"},
    "multidraft.verification.grow": {"drafts": "[]", "text": "[]|[[]]|[None]|[object]|generator|[nan]", "length": "0"},
}
FAULTS: dict = {}
