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
    "app.study.run_study": ("app.study", "import os, tempfile\nos.environ['TOKENSTUDY_HOME'] = tempfile.mkdtemp()\nrun_study(['no-such-paper'])"),
}
ROOT = {"root": ["results"]}
SAME = {**{f"app.claims.{name}": ROOT for name in CLAIMS}, "app.charts.Chart": ROOT, "app.charts.picture_files": ROOT, "app.cover.cover_records": ROOT,
        "app.cover.cover_files": ROOT, "app.speed.speed_rows": ROOT, "app.speed.packing_share": ROOT, "app.speed.Speed": ROOT,
        "app.notebooks.source_notebook": {"path": ["notebook"]}, "app.claims.verifier_accuracy": {"root": ["results"], "kind": ["verifier"]}}
ANY = {"app.notebooks.time_left", "app.commands.run_bench", "app.commands.run_models", "app.commands.main", "app.study.run_study", "app.study.without_paths", "app.speed.speed_rows",
       "app.speed.packing_share", "app.speed.Speed"}
LONG = {"app.commands.run_bench", "app.charts.Chart", "app.charts.picture_files", "app.claims.multidraft_claims", "app.claims.brat_claims", "app.claims.cdpo_claims", "app.claims.tvm_claims",
        "app.claims.all_claims", "app.claims.headlines", "app.cover_record.record_cover", "app.commands.run_models", "app.notebooks.execute"}
NEVER: dict = {}

# Legal all the same: the result is of the valid call's kind, or a work that begins
LEGAL = {
    "app.charts.accuracy": {"values": "short"},
    "app.charts.forest": {"rows": "[]", "label": "|text", "title": "|text", "ink": "|text"},
    "app.charts.Chart.svg": {"ink": "|text"},
    "app.claims.Claim": {"paper": "[]", "claim": "[]", "theirs": "[]", "ours": "[]", "verdict": "[]", "notebook": "[]"},
    "app.claims.signed": {"digits": "0"},
    "app.claims.plus_minus": {"digits": "0"},
    "app.claims.concept_scores": {"base": "|text", "strategy": "|text"},
    "app.claims.Verdicts": {"claims": "[]|{}|generator", "base": "|text"},
    "app.commands.prepare_models": {"rows": "[]|generator"},
    "app.commands.run_bench": {"what": "[]"},
    "app.commands.run_models": {"action": "|text", "name": "|text"},
    "app.cover.committed_records": {"study": "text", "root": "missing|folder"},
    "app.cover.tag": {"name": "|text", "inside": "|text"},
    "app.cover.words": {"x": "-1|0", "y": "-1|0", "text": "|text"},
    "app.cover.cover_svg": {"ink": "|text"},
    "app.cover.Cover": {"records": "{}|other keys|number keys"},
    "app.cover_record.record_cover": {"parts": "{}"},
    "app.notebooks.read_notebook": {"path": "missing|folder"},
    "app.notebooks.study_name": {"root": "missing|folder"},
    "app.notebooks.copy_path": {"root": "missing|folder"},
    "app.notebooks.finished_copy": {"root": "missing|folder"},
    "app.notebooks.execute": {"folder": "missing|folder", "env": "{}|other keys|number keys"},
    "app.notebooks.time_left": {"cells": "[]", "known": "{}", "spent": "0"},
    "app.notebooks.clock": {"seconds": "0"},
    "app.notebooks.Screen": {"todo": "[]|[[]]|[None]|[object]|[nan]", "known": "{}|other keys|number keys"},
    "app.notebooks.Screen.say": {"text": "|text"},
    "app.notebooks.Screen.start": {"name": "|text"},
    "app.notebooks.Screen.cell_done": {"seconds": "0"},
    "app.notebooks.Screen.skip_to": {"remaining": "[]|[[]]|[None]|[object]|[nan]"},
    "app.report.imports_only": {"source": "|text"},
    "app.report.slug": {"name": "|text"},
    "app.report.notebook_html": {"name": "|text", "folder": "missing|folder", "names": "[]|generator"},
    "app.report.report_part": {"root": "missing|folder", "names": "[]|[[]]|[None]|[object]|generator|[nan]"},
    "app.speed.packing_share": {"temperature": "0"},
    "app.study.kernel_env": {"root": "missing|folder"},
    "app.study.run_one": {"root": "missing|folder"},
    "app.study.run_study": {"papers": "[]|[[]]|[None]|[object]|generator|[nan]"},
    "app.study.without_paths": {"value": "1|text|[]|[[]]|[None]|[object]|{}|object|generator|[nan]", "root": "missing|folder"},
    "app.study.save_outputs": {"root": "missing|folder"},
    "app.study.keep_records": {"paper": "|text"},
}
FAULTS: dict = {}
