SCREEN = "screen = Screen(['a', 'b'], {'a': 1.})\nfrom nbformat.v4 import new_code_cell\ncell = new_code_cell('1 + 1')\n"
CLAIMS = ("multidraft_claims", "brat_claims", "cdpo_claims", "tvm_claims", "all_claims", "headlines", "rollout_results", "trained", "acceptance",
          "records_of", "concept_scores", "verifier_accuracy")
SEEN = {
    "app.charts.Chart.svg": ("app.charts", "chart = Chart.__new__(Chart)\nchart.rows, chart.ticks, chart.label, chart.title = [('a', {'b': Found(1., .5, 1.5)})], [0, 2], 'x', 't'\nchart.svg()"),
    "app.commands.run_bench": ("app.commands", "run_bench(['no-such-bench'])"),
    "app.notebooks.source_notebook": ("app.notebooks", "source_notebook('nbs/core/00_overview.ipynb')"),
    "app.notebooks.Screen.say": ("app.notebooks", SCREEN + "screen.say('a word')"),
    "app.notebooks.Screen.start": ("app.notebooks", SCREEN + "screen.start('core/01')"),
    "app.notebooks.Screen.cell_start": ("app.notebooks", SCREEN + "screen.cell_start(cell)"),
    "app.notebooks.Screen.cell_done": ("app.notebooks", SCREEN + "screen.cell_done(cell, 1.)"),
    "app.notebooks.Screen.skip_to": ("app.notebooks", SCREEN + "screen.skip_to(['b'])"),
    "app.study.run_study": ("app.study", "run_study(['no-such-paper'])"),
    "app.report.Part": ("app.report", "Part('a', 'A', '', [], False)"),
}
ROOT = {"root": ["results"]}
SAME = {**{f"app.claims.{name}": ROOT for name in CLAIMS}, "app.charts.Chart": ROOT, "app.charts.picture_files": ROOT, "app.cover.cover_records": ROOT,
        "app.cover.cover_files": ROOT, "app.speed.speed_rows": ROOT, "app.speed.packing_share": ROOT, "app.speed.Speed": ROOT,
        "app.claims.verifier_accuracy": {"root": ["results"], "kind": ["verifier"]}}
ANY = {"app.commands.run_bench", "app.commands.run_models", "app.commands.main", "app.study.run_study", "app.study.without_paths", "app.speed.speed_rows",
       "app.speed.packing_share", "app.speed.Speed"}
LONG = {"app.charts.Chart", "app.charts.picture_files", "app.claims.multidraft_claims", "app.claims.brat_claims", "app.claims.cdpo_claims", "app.claims.tvm_claims",
        "app.claims.all_claims", "app.claims.headlines", "app.cover_record.record_cover", "app.commands.run_models", "app.notebooks.execute"}
LEGAL: dict = {}
FAULTS: dict = {}
NEVER: dict = {}
