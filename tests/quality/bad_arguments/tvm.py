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
    "tvm.search.SearchResult.path": ("tvm.search", SEARCHED + "found.path(0)"),
    "tvm.search.SearchResult.response": ("tvm.search", SEARCHED + "found.response(0)"),
    "tvm.search.SearchResult.values": ("tvm.search", SEARCHED + "found.values(0)"),
    "tvm.search.SearchResult.scores": ("tvm.search", SEARCHED + "found.scores('last')"),
    "tvm.search.SearchResult.vote": ("tvm.search", SEARCHED + "found.answers = ['2'] * len(found.final)\nfound.vote('sum', among='all')"),
    "tvm.setups.StepEnds.__call__": "tvm.search.tree_search",
    "tvm.setups.Setup.lessons": ("tvm.setups", SETUP + "setup.lessons(1)"),
    "tvm.setups.text_setup": ("tvm.setups", "text_setup('no-such-model')"),
    "tvm.verifier.TokenValueConfig.get_text_config": ("tvm.verifier", MODEL + "model.config.get_text_config(True)"),
    "tvm.verifier.TokenValueModel.from_pretrained": ("tvm.verifier", "TokenValueModel.from_pretrained('missing')"),
    "tvm.verifier.TokenValueModel.set_input_embeddings": ("tvm.verifier", MODEL + "model.set_input_embeddings(model.get_input_embeddings())"),
    "tvm.verifier.TokenValueModel.forward": ("tvm.verifier", MODEL + "import torch\nmodel.forward(torch.tensor([[3, 1]]))"),
}
PROBLEMS = {"problems": ["prompts", "prompt"]}
SAME = {"tvm.policies.step_beam": PROBLEMS, "tvm.policies.dvts": PROBLEMS, "tvm.policies.rebase": PROBLEMS, "tvm.search.tree_search": PROBLEMS,
        "tvm.ordering.search_result": {"found": ["responses"]}, "tvm.training.step_losses": {"kind": ["loss"]}, "tvm.verifier.value_loss": {"kind": ["loss"]},
        "tvm.training.train_verifier": {"eval_data": ["trajectories", "sample"], "kind": ["labels"]}, "tvm.labels.value_data": {"kind": ["labels"]},
        "tvm.verifier.values_of": {"out": ["value"]}, "tvm.verifier.value_quality": {"model": ["values"], "truth": ["tokens"]},
        "tvm.voting.best_at_n": {"correct": ["samples"]}}
ANY = {"tvm.voting.majority_vote", "tvm.ordering.accuracies", "tvm.setups.text_setup", "tvm.verifier.TokenValueModel.from_pretrained"}
LONG: set = {"tvm.setups.arithmetic_setup", "tvm.ordering.judged", "tvm.bench.rows", "tvm.bench.label_all", "tvm.bench.labels_scaling", "tvm.training.train_verifier"}
LEGAL: dict = {}
FAULTS: dict = {}
NEVER: dict = {}
