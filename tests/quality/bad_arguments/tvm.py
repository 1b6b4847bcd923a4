SEARCHED = """
from tokenstudy.lm import tiny_lm
from tokenstudy.tvm.policies import step_beam
found = step_beam(tiny_lm(), None, [[3, 1, 4]], K=2, b=1, block=2, max_steps=2, max_new_tokens=6)[0]
"""
SETUP = "setup = arithmetic_setup(2, 2, 1, num_test_samples=2)\n"
MODEL = """
from tokenstudy.lm import tiny_lm
model = TokenValueModel.from_causal_lm(tiny_lm())
"""
SEEN = {
    "tvm.bench.labels_scaling": ("tvm.bench", "labels_scaling(100, 2)"),
    "tvm.candidates.SearchResult.path": ("tvm.candidates", SEARCHED + "found.path(0)"),
    "tvm.candidates.SearchResult.response": ("tvm.candidates", SEARCHED + "found.response(0)"),
    "tvm.candidates.SearchResult.values": ("tvm.candidates", SEARCHED + "found.values(0)"),
    "tvm.candidates.SearchResult.scores": ("tvm.candidates", SEARCHED + "found.scores('last')"),
    "tvm.candidates.SearchResult.vote": ("tvm.candidates", SEARCHED + "found.told = {i: '2' for i in found.final}\nfound.vote('sum', among='final')"),
    "tvm.setups.StepEnds.__call__": "tvm.search.tree_search",
    "tvm.setups.Setup.lessons": ("tvm.setups", SETUP + "setup.lessons(1)"),
    "tvm.setups.text_setup": ("tvm.setups", "text_setup('no-such-model')"),
    "tvm.verifier.TokenValueConfig.get_text_config": ("tvm.verifier", MODEL + "model.config.get_text_config(True)"),
    "tvm.verifier.TokenValueModel.from_pretrained": ("tvm.verifier", "TokenValueModel.from_pretrained('missing')"),
    "tvm.verifier.TokenValueModel.set_input_embeddings": ("tvm.verifier", MODEL + "model.set_input_embeddings(model.get_input_embeddings())"),
    "tvm.verifier.TokenValueModel.save_pretrained": ("tvm.verifier", MODEL + "import tempfile\nmodel.save_pretrained(tempfile.mkdtemp())"),
    "tvm.verifier.TokenValueModel.forward": ("tvm.verifier", MODEL + "import torch\nmodel.forward(torch.tensor([[3, 1]]))"),
}
PROBLEMS = {"problems": ["prompts", "prompt"]}
SAME = {"tvm.policies.step_beam": PROBLEMS, "tvm.policies.dvts": PROBLEMS, "tvm.policies.rebase": PROBLEMS, "tvm.search.tree_search": PROBLEMS,
        "tvm.ordering.search_result": {"found": ["responses"]}, "tvm.training.step_losses": {"kind": ["loss"]}, "tvm.verifier.value_loss": {"kind": ["loss"]},
        "tvm.training.train_verifier": {"eval_data": ["trajectories", "sample"], "kind": ["labels"]}, "tvm.labels.value_data": {"kind": ["labels"]},
        "tvm.verifier.values_of": {"out": ["value"]}, "tvm.verifier.value_quality": {"model": ["values"], "truth": ["tokens"]},
        "tvm.verifier.save_verifier": {"tokenizer": ["folder"]}, "tvm.voting.best_at_n": {"correct": ["samples"]}}
ANY = {"tvm.verifier.load_verifier", "tvm.verifier.vocabulary_key", "tvm.verifier.save_verifier", "tvm.voting.majority_vote", "tvm.ordering.accuracies", "tvm.setups.text_setup", "tvm.verifier.TokenValueModel.from_pretrained"}
LONG: set = {"tvm.setups.arithmetic_setup", "tvm.ordering.judged", "tvm.bench.rows", "tvm.bench.label_all", "tvm.bench.labels_scaling", "tvm.training.train_verifier"}
NEVER: dict = {}

# Legal all the same: the result is of the valid call's kind, or a work that begins
LEGAL = {
    "tvm.bench.random_pair": {"seed": "0"},
    "tvm.bench.counted": {"results": "[]|{}|generator", "which": "[]|{}|generator"},
    "tvm.candidates.Candidate": {
        "step": "[]", "parent": "[]", "tokens": "[]|[[]]|[None]|[object]|{}|[nan]", "value": "[]", "kept": "[]", "finished": "[]"},
    "tvm.candidates.SearchResult": {
        "problem": "[]", "prompt_ids": "[]|[[]]|[None]|[object]|{}|[nan]", "nodes": "[]|[[]]|[None]|[object]|{}|[nan]",
        "final": "[]|[[]]|[None]|[object]|{}|[nan]", "counts": "[]|{}|other keys|number keys", "answers": "[]|[[]]|[None]|[object]|{}|[nan]",
        "told": "[]|{}|other keys|number keys"},
    "tvm.candidates.SearchResult.path": {"node": "-1|0"},
    "tvm.candidates.SearchResult.response": {"node": "-1|0"},
    "tvm.candidates.SearchResult.values": {"node": "-1|0"},
    "tvm.labels.labels_flat": {"delimiter": "[]"},
    "tvm.labels.review": {"trajectories": "[]|{}|generator", "eos_ids": "[]|[None]|[object]|{}|generator|[nan]"},
    "tvm.labels.problem_trie": {"eos_ids": "[]|[None]|[object]|{}|generator|[nan]"},
    "tvm.labels.label_samples": {"delimiter": "[]", "eos_ids": "[]|[None]|[object]|{}|generator|[nan]"},
    "tvm.labels.prm_labels_by_rollout": {"trajectories": "[]|{}|generator"},
    "tvm.labels.ValueData": {
        "ids": "[]|[[]]|[None]|[object]|{}|[nan]", "lead": "[]|ragged|texts|{}|deep", "labels": "[]|[[]]|[None]|[object]|{}|[nan]",
        "confidence": "[]|[[]]|[None]|[object]|{}|[nan]", "weights": "[]|ragged|texts|{}|deep|nan", "problem": "[]|ragged|texts|{}|deep",
        "counts": "[]|{}|other keys|number keys", "kind": "[]"},
    "tvm.labels.by_problem": {"trajectories": "[]|{}|generator"},
    "tvm.labels.value_data": {"delimiter": "[]", "eos_ids": "[]|[None]|[object]|{}|generator|[nan]"},
    "tvm.ordering.judged": {"seed": "0", "searches": "[]|{}|generator", "keep": "missing"},
    "tvm.ordering.accuracies": {"records": "[]|{}|generator"},
    "tvm.policies.draw_search": {"title": "|text"},
    "tvm.search.tree_search": {"temperature": "0", "top_k": "0", "lookahead": "0", "seed": "0", "config": "{}|other keys|number keys"},
    "tvm.setups.StepEnds": {"delimiter": "1"},
    "tvm.setups.StepEnds.__call__": {"tokens": "[]|[[]]|[None]|[object]|[nan]"},
    "tvm.setups.Setup": {
        "generator": "[]|{}", "train": "[]|{}|other keys|number keys", "problems": "[]|{}", "samples": "[]|[[]]|[None]|[object]|{}|[nan]",
        "delimiter": "[]|[[]]|[None]|[object]|{}|[nan]", "grade": "[]", "truth": "[]|[[]]|[None]|[object]|{}|[nan]", "max_new_tokens": "[]",
        "sampling": "[]|{}|other keys|number keys", "name": "[]"},
    "tvm.setups.arithmetic_setup": {"seed": "0", "folder": "missing|folder"},
    "tvm.setups.text_setup": {"model": "|text", "teach": "0", "shots": "0", "seed": "0"},
    "tvm.training.batches": {"composition": "|text", "seed": "0", "epoch": "0"},
    "tvm.training.micro_batches": {"rows": "short"},
    "tvm.training.step_losses": {"lm_weight": "0"},
    "tvm.training.denominators": {"rows": "[]|generator"},
    "tvm.training.VerifierRun": {
        "model": "[]|{}", "kind": "[]", "log": "[]|[[]]|[None]|[object]|{}|[nan]", "counts": "[]|{}|other keys|number keys",
        "settings": "[]|{}|other keys|number keys", "tokens": "[]", "seconds": "[]"},
    "tvm.training.train_verifier": {
        "delimiter": "[]", "eos_ids": "[]|[None]|[object]|{}|generator|[nan]", "lm_weight": "0", "seed": "0",
        "output_dir": "missing|folder", "save_every": "inf|0"},
    "tvm.verifier.TokenValueConfig.get_text_config": {"args": "None|text|2|[]|object"},
    "tvm.verifier.TokenValueConfig": {"base": "{}"},
    "tvm.verifier.value_loss": {"logits": "nan", "labels": "nan"},
    "tvm.verifier.TokenValueModel.from_pretrained": {"name": "missing", "args": "None|1|text|[]|{}|object"},
    "tvm.verifier.check_tokenizer": {"tokenizer": "1|text|[]|{}|object"},
    "tvm.verifier.check_vocabulary": {"ids": "[]|{}|generator|[nan]"},
    "tvm.verifier.score_responses": {"responses": "[]|{}|generator"},
    "tvm.verifier.score_samples": {"samples": "[]|[[]]|{}|generator"},
    "tvm.verifier.value_quality": {"eos_ids": "[]|[None]|[object]|{}|generator|[nan]"},
    "tvm.voting.majority_vote": {"answers": "[]|[None]|[object]|[nan]"},
    "tvm.voting.accuracy_curves": {"scores": "{}", "seed": "0", "votes": "[]|generator"},
    "tvm.training.tensors": {"pad_id": "0"},
    "tvm.verifier.vocabulary_key": {"tokenizer": "1|text|[]|{}|object"},
    "tvm.verifier.TokenValueModel.forward": {"logits_to_keep": "0", "lm_logits_to_keep": "0"},
    "tvm.verifier.TokenValueModel.save_pretrained": {"folder": "missing|folder"},
    "tvm.verifier.TokenValueOutput": {
        "loss": "[]|ragged|texts|{}", "values": "[]|ragged|texts|{}", "logits": "[]|ragged|texts|{}", "past_key_values": "[]|{}",
        "lm_logits": "[]|ragged|texts|{}"},
    "tvm.verifier.save_verifier": {"folder": "missing"},
    "tvm.verifier.load_verifier": {"device": "|text", "dtype": "|text"},
    "tvm.voting.draw_accuracy": {"rows": "[]|{}|generator", "points": "[]|{}|generator"},
}
FAULTS: dict = {}
