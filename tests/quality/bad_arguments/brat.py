NEVER = {"brat.recipe.draw_world": {"huge"}, "brat.recipe.train_at": {"huge"}, "brat.captions.concept_pictures": {"huge"}, "brat.recipe.gate_prompts": {"huge"},
         "brat.world.held_out": {"huge"}, "brat.world.render": {"huge"}, "brat.world.grid": {"huge"}, "brat.world.as_pixels": {"huge"}, "brat.world.labelled_grid": {"huge"},
         "brat.bench.rows": {"huge"}, "brat.bench.memory": {"huge", "-1", "0"}, "brat.bench.measured_growth": {"huge"}, "brat.recipe.train_base": {"huge"},
         "brat.fidelity.evaluation_prompts": {"huge"}, "brat.bases.build_base": {"huge"}, "brat.bases.load_base": {"huge"}, "brat.bases.build_tokenizer": {"huge"}}
SEEN: dict = {}
SAME: dict = {}
ANY: set = set()
LONG: set = set()
LEGAL: dict = {}
FAULTS: dict = {}
