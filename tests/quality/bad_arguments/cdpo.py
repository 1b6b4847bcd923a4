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
from tokenstudy.cdpo.pairs import word_lm
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
    "cdpo.methods.large_task": ("cdpo.methods", "large_task('smollm2', {}, source='no/such/folder')"),
    "cdpo.trainer.TokenWeightedDPOTrainer.reference_token_logps": ("cdpo.trainer", TRAINED + "trainer.reference_token_logps(batch)"),
    "cdpo.trainer.TokenWeightedDPOTrainer.compute_loss": ("cdpo.trainer", TRAINED + "trainer.compute_loss(trainer.model, batch)"),
    "cdpo.pairs.BorderCheck.__call__": ("cdpo.pairs", """lm = word_lm(["7 - 9 = 8 3"])
row = dict(prompt="7 - 9 =", prompt_ids=[5, 4, 7, 8], rejected_ids=[3, 2], rejected_weights=[1., 0.], rejected_tokens=["<unk>", "</s>"])
BorderCheck(lm.tokenizer, "train")(row, 0)"""),
    "cdpo.pairs.StreamReview.__call__": "cdpo.pairs.StreamReview",
    "cdpo.pairs.check_texts": ("cdpo.pairs", "check_texts([dict(prompt='7 - 9 =', chosen=' 8', rejected=' 3')], word_lm(['7']).tokenizer)"),
    "cdpo.pairs.TokenWeightedCollator.torch_call": ("cdpo.pairs", f"TokenWeightedCollator(0).torch_call([{PAIR}])"),
}
PROMPTS = {"problems": ["prompts"]}
SAMPLE = {"trajectory": ["sample"], "trajectories": ["sample"]}
MODELS = {"positive": ["models", "log-probabilities"], "negative": ["models", "log-probabilities"]}
SAME = {"cdpo.comparison.evaluate": PROMPTS, "cdpo.critical.identify": SAMPLE, "cdpo.critical.identify_sequential": SAMPLE, "cdpo.critical.identify_many": SAMPLE, "cdpo.critical.intervene": SAMPLE,
        "cdpo.contrast.token_signals": SAMPLE, "cdpo.contrast.contrastive_distribution": MODELS, "cdpo.contrast.contrastive_scores": MODELS,
        "cdpo.contrast.select_negative": {"correct": ["flags"]}, "cdpo.contrast.pointing": {"suspicion": ["tokens"]},
        "cdpo.pairs.check_weights": {"length": ["response"], "most": ["weight"]}, "cdpo.weights.oracle_weights": {"length": ["response"], "place": ["token"]},
        "cdpo.pairs.pairs_from_samples": {"trajectories": ["problem"]}, "cdpo.pairs.review_pairs": {"context": ["model reads"]}}
ANY = {"cdpo.pairs.checked", "cdpo.contrast.select_positive", "cdpo.weights.first_difference", "cdpo.pairs.check_texts", "cdpo.methods.large_task", "cdpo.weights.weights_from_spans"}
LONG = {"cdpo.bench.rows", "cdpo.bench.step_vs_trl", "cdpo.bench.step_contest", "cdpo.comparison.study_data", "cdpo.methods.train", "cdpo.methods.distractors",
        "cdpo.methods.word_problems", "cdpo.bench.wrong_solutions", "cdpo.comparison.first_mistake_kinds"}
NEVER: dict = {}

# Legal all the same: the result is of the valid call's kind, or a work that begins
LEGAL = {
    "cdpo.bench.generate_everywhere": {"positions": "[]"},
    "cdpo.bench.step_contest": {"seed": "0"},
    "cdpo.comparison.evaluate": {"num_samples": "0", "temperature": "0", "seed": "0"},
    "cdpo.comparison.compare": {
        "validation": "[]|generator", "test": "[]|generator", "grader": "None|1|text|[]|object", "lrs": "[]",
        "betas": "[]", "seeds": "[]", "entries": "{}",
        "num_samples": "0", "measure": "|text"},
    "cdpo.comparison.results_of": {"records": "[]", "entries": "{}|other keys|number keys", "measure": "|text"},
    "cdpo.comparison.summary": {"results": "[]", "baseline": "|text", "measure": "|text"},
    "cdpo.comparison.StudyData": {"pairs": "[]|{}", "counts": "[]|{}|other keys|number keys", "mass": "[]|{}|other keys|number keys"},
    "cdpo.comparison.study_data": {"rollouts": "0", "seed": "0", "contrast": "{}", "path": "missing"},
    "cdpo.comparison.first_mistake_kinds": {"seed": "0"},
    "cdpo.comparison.draw_curves": {"results": "[]", "names": "[]|[None]|[object]|generator|[nan]"},
    "cdpo.contrast.contrastive_distribution": {"ce_beta": "0"},
    "cdpo.contrast.contrastive_scores": {"ce_beta": "0"},
    "cdpo.contrast.select_positive": {"correct": "[]|[[]]|[None]|[object]|generator|[nan]"},
    "cdpo.contrast.contrast_sets": {"problems": "[]|[[]]", "seed": "0"},
    "cdpo.contrast.contrast_model": {"epochs": "0", "lr": "0", "lora": "0", "seed": "0"},
    "cdpo.contrast.token_signals": {"ce_beta": "0"},
    "cdpo.contrast.pointing": {"index": "0"},
    "cdpo.contrast.TokenViews": {"strips": "other keys|number keys"},
    "cdpo.contrast.token_views": {"title": "|text"},
    "cdpo.critical.Critical": {"index": "[]", "reason": "[]", "fallback": "[]"},
    "cdpo.critical.critical_token": {"scores": "[]", "before": "0", "start": "0"},
    "cdpo.critical.Identified": {
        "critical": "[]|{}", "correct": "[]|ragged|texts|{}|deep|short", "counts": "[]|ragged|texts|{}|deep|short", "tokens": "[]", "read": "[]"},
    "cdpo.critical.identify_many": {"before": "0", "checks": "0"},
    "cdpo.critical.text_grader": {"golds": "[]|[[]]|[None]|[object]|generator|[nan]"},
    "cdpo.losses.log_ratios": {"logps": "nan", "ref_logps": "nan", "weights": "nan"},
    "cdpo.losses.sigmoid_loss": {"logps": "nan", "ref_logps": "nan", "beta": "0"},
    "cdpo.losses.per_position_loss": {"logps": "nan", "ref_logps": "nan", "beta": "0"},
    "cdpo.losses.tdpo_loss": {"logps": "nan", "ref_logps": "nan", "kl": "nan", "beta": "0", "alpha": "0"},
    "cdpo.methods.pair_logprobs": {"pairs": "[]|generator"},
    "cdpo.methods.LogProbCurves.on_train_begin": {"args": "None|1|text|[]|{}|object", "control": "None|1|text|[]|{}|object"},
    "cdpo.methods.LogProbCurves.on_train_end": {"args": "None|1|text|[]|{}|object", "control": "None|1|text|[]|{}|object"},
    "cdpo.methods.LogProbCurves.on_step_end": {"args": "None|1|text|[]|{}|object", "control": "None|1|text|[]|{}|object"},
    "cdpo.methods.curves": {"log_history": "[]|[[]]|generator"},
    "cdpo.methods.Trained": {
        "lm": "[]|{}", "settings": "[]|{}|other keys|number keys", "log": "[]|[[]]|[None]|[object]|{}|[nan]",
        "curves": "[]|[[]]|[None]|[object]|{}|[nan]", "report": "[]|{}|other keys|number keys", "seconds": "[]"},
    "cdpo.methods.train": {"lr": "0", "epochs": "0", "seed": "0", "rpo_alpha": "0", "output_dir": "missing|folder"},
    "cdpo.methods.Task.grade": {"golds": "[[]]|[None]|[object]|[nan]"},
    "cdpo.methods.Task.correct": {"ids": "[]|generator"},
    "cdpo.methods.Task": {"base": "[]|{}", "train": "[]|{}", "validation": "[]|{}", "test": "[]|{}", "grade": "[]", "max_new_tokens": "[]"},
    "cdpo.methods.stories": {"seed": "0"},
    "cdpo.methods.distractors": {"seed": "0"},
    "cdpo.methods.word_problems": {
        "validation": "0", "shots": "0", "epochs": "0"},
    "cdpo.methods.large_task": {"model": "|text", "settings": "{}|other keys|number keys"},
    "cdpo.trainer.masked_rows": {"values": "nan|short", "mask": "short"},
    "cdpo.pairs.check_weights": {"where": "text", "most": "inf"},
    "cdpo.pairs.checked": {"pairs": "[]"},
    "cdpo.weights.weights_from_scores": {"scores": "[]"},
    "cdpo.weights.shuffled_weights": {"weights": "[]", "seed": "0|[]"},
    "cdpo.weights.constant_weights": {"weights": "[]"},
    "cdpo.weights.oracle_weights": {"place": "0", "mass": "0"},
    "cdpo.weights.first_difference": {"given": "[]|[[]]|[None]|[object]|generator|[nan]", "correct": "[]|[[]]|[None]|[object]|[nan]"},
    "cdpo.weights.weights_from_contrast": {"ce_beta": "0"},
    "cdpo.weights.reweighted": {"seed": "0", "place": "|text"},
    "cdpo.pairs.check_texts": {"name": "text"},
    "cdpo.pairs.word_lm": {"seed": "0"},
    "cdpo.pairs.pairs_from_samples": {"seed": "0"},
    "cdpo.pairs.review_pairs": {"eos": "[]|{}", "max_weight": "inf", "name": "text"},
    "cdpo.pairs.review_pair": {"where": "text", "eos": "[]|{}", "max_weight": "inf"},
    "cdpo.pairs.StreamReview": {"name": "text", "options": "{}"},
    "cdpo.pairs.StreamReview.__call__": {"place": "0"},
    "cdpo.pairs.BorderCheck": {"name": "text"},
    "cdpo.pairs.BorderCheck.__call__": {"place": "0"},
    "cdpo.weights.weights_from_spans": {"rest": "0"},
}
FAULTS: dict = {}
