CURVES = """
lm = lms.tiny_lm('llama', vocab=8)
curves = LogProbCurves([dict(prompt_ids=[1], chosen_ids=[4, 7], rejected_ids=[3, 5, 7])])
"""
STEP = """
from types import SimpleNamespace
state, args, control = SimpleNamespace(global_step=20, log_history=[]), SimpleNamespace(), SimpleNamespace()
"""
TASK = "task = stories(1, 1)\n"
PAIR = "dict(prompt_ids=[1], chosen_ids=[4, 7], rejected_ids=[3, 5, 7], chosen_weights=[1., 1.], rejected_weights=[1., 1., 1.])"
TRAINED = """
from tokenstudy.cdpo.weights import word_lm
lm, row = word_lm(["7 - 9 = 8 3"]), dict(prompt="7 - 9 =", chosen=" 8", rejected=" 3")
data = Dataset.from_list([dict(row, rejected_weights=[1., 0.])])
trainer = TokenWeightedDPOTrainer(lm.model, args=TokenWeightedDPOConfig("out", use_cpu=True), train_dataset=data, processing_class=lm.tokenizer)
batch = trainer.data_collator([trainer.train_dataset[0]])
"""
SEEN = {
    "cdpo.comparison.compare": ("cdpo.comparison", "compare(lms.tiny_lm('llama', vocab=8), Dataset.from_list([]), [], entries={}, test=[], grader=len, runs=core.Runs('cdpo/compare'), lrs=[1e-3], betas=[1.])"),
    "cdpo.critical.Identified.interval": ("cdpo.critical", "import numpy as np\nIdentified(critical_token([1., 0.]), np.array([1, 0]), np.array([2, 2]), 4, 3).interval()"),
    "cdpo.methods.LogProbCurves.measure": ("cdpo.methods", CURVES + STEP + "curves.measure(state, lm.model)"),
    **{f"cdpo.methods.LogProbCurves.{name}": ("cdpo.methods", CURVES + STEP + f"curves.{name}(args, state, control, model=lm.model)")
       for name in ("on_train_begin", "on_train_end", "on_step_end")},
    "cdpo.methods.Task.grade": ("cdpo.methods", TASK + "task.grade(['# 2'], ['2'])"),
    "cdpo.methods.Task.correct": ("cdpo.methods", TASK + "task.correct(dict(answer='2'), [4])"),
    "cdpo.methods.Task.asked": ("cdpo.methods", TASK + "task.asked(task.test)"),
    "cdpo.methods.large_task": ("cdpo.methods", "large_task('smollm2', {}, gigabytes=1e5)"),
    "cdpo.trainer.TokenWeightedDPOTrainer.reference_token_logps": ("cdpo.trainer", TRAINED + "trainer.reference_token_logps(batch)"),
    "cdpo.trainer.TokenWeightedDPOTrainer.compute_loss": ("cdpo.trainer", TRAINED + "trainer.compute_loss(trainer.model, batch)"),
    "cdpo.weights.BorderCheck.__call__": ("cdpo.weights", """lm = word_lm(["7 - 9 = 8 3"])
row = dict(prompt="7 - 9 =", prompt_ids=[5, 4, 7, 8], rejected_ids=[3, 2], rejected_weights=[1., 0.], rejected_tokens=["<unk>", "</s>"])
BorderCheck(lm.tokenizer, "train")(row, 0)"""),
    "cdpo.weights.StreamReview.__call__": "cdpo.weights.StreamReview",
    "cdpo.weights.TokenWeightedCollator.torch_call": ("cdpo.weights", f"TokenWeightedCollator(0).torch_call([{PAIR}])"),
}
PROMPTS = {"problems": ["prompts"]}
SAMPLE = {"trajectory": ["sample"], "trajectories": ["sample"]}
MODELS = {"positive": ["models", "log-probabilities"], "negative": ["models", "log-probabilities"]}
SAME = {"cdpo.comparison.evaluate": PROMPTS, "cdpo.critical.identify": SAMPLE, "cdpo.critical.identify_sequential": SAMPLE, "cdpo.critical.identify_many": SAMPLE, "cdpo.critical.intervene": SAMPLE,
        "cdpo.contrast.token_signals": SAMPLE, "cdpo.contrast.contrastive_distribution": MODELS, "cdpo.contrast.contrastive_scores": MODELS,
        "cdpo.contrast.select_negative": {"correct": ["flags"]}, "cdpo.contrast.pointing": {"suspicion": ["tokens"]},
        "cdpo.weights.check_weights": {"length": ["response"], "most": ["weight"]}, "cdpo.weights.oracle_weights": {"length": ["response"], "place": ["token"]},
        "cdpo.weights.pairs_from_samples": {"trajectories": ["problem"]}, "cdpo.weights.review_pairs": {"context": ["model reads"]}}
ANY = {"cdpo.contrast.select_positive", "cdpo.weights.first_difference", "cdpo.weights.check_texts", "cdpo.methods.large_task", "cdpo.weights.weights_from_spans"}
LONG = {"cdpo.bench.rows", "cdpo.bench.step_vs_trl", "cdpo.bench.step_contest", "cdpo.comparison.study_data", "cdpo.methods.train", "cdpo.methods.distractors",
        "cdpo.methods.word_problems", "cdpo.bench.wrong_solutions", "cdpo.comparison.first_mistake_kinds"}
LEGAL: dict = {}
FAULTS: dict = {}
NEVER: dict = {}
