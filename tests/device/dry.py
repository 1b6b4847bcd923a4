"""Runs notebooks at gpu scale with the settings that `cuts.json` cuts, each in a fork of one process that has imported the heavy libraries and read the
embedded language model; a line of JSON for each. `python tests/device/dry.py [--card] [--whole] [--texts FOLDER] [NOTEBOOK…]`: notebooks such as
cdpo/03_finding, all that have a gpu scale by default; `--card` has them compute in bf16 on a pretend card (`pretend.py`); what the cells say goes into FOLDER.

Runs, caches and problems stand in a temporary folder. The problems are sums in GSM8K's format. The notebooks of `SHALLOW` get 2 of the
language model's 30 layers, which have learned the sums a little: some of their solutions are correct. `--whole` gives them all, which takes minutes."""
import argparse
import contextlib
import copy
import importlib
import json
import os
import random
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE), str(ROOT)]
from run_card import short

HEAVY = ("numpy", "scipy.stats", "scipy.optimize", "numba", "torch", "torch._dynamo", "transformers", "datasets", "peft", "trl", "accelerate", "diffusers",
         "math_verify", "trl.trainer.dpo_trainer", "matplotlib_inline.backend_inline", "IPython.core.interactiveshell", "tokenstudy.app.notebooks")
SHALLOW = re.compile("cdpo/|tvm/|multidraft/(08|11)")     # they train the language model, or ask it most often
CUTS = json.loads((HERE/"cuts.json").read_text("utf-8"))


def with_gpu_scale() -> list:
    "Names of the notebooks that have settings for the gpu scale, such as cdpo/03_finding."
    def calls(file):
        cells = json.loads(file.read_text("utf-8"))["cells"]
        return any(re.search(r"\bcore\.scale\(", "".join(c["source"])) for c in cells if c["cell_type"] == "code")
    return [f"{f.parent.name}/{f.stem}" for f in sorted((ROOT/"nbs").glob("*/*.ipynb")) if f.parent.name != "app" and calls(f)]


def sums(count: int, seed: int) -> list:
    "Rows as GSM8K has them."
    draw, rows = random.Random(seed), []
    for _ in range(count):
        a, b = draw.randint(1, 3), draw.randint(1, 2)
        rows.append(dict(question=f"What is {a} + {b}?", answer=f"{a}+{b}\n#### {a + b}"))
    return rows


def with_layers(lm, count: int):
    "A language model of the first layers of another, which has learned sums."
    from tokenstudy.lm.finetuning import few_shot, fine_tune, lessons
    made = copy.deepcopy(lm)
    made.model.model.layers, made.model.config.num_hidden_layers = made.model.model.layers[:count], count
    if getattr(made.model.config, "layer_types", None): made.model.config.layer_types = made.model.config.layer_types[:count]
    rows = [dict(id=str(i), prompt=r["question"], answer="", solution=r["answer"]) for i, r in enumerate(sums(8, 2))]
    return fine_tune(made, lessons(made, few_shot(rows)), 9, lr=1e-3, batch_size=8)


def read_once(models) -> None:
    "The embedded language model is copied instead of being read from its file: the last one of `models`."
    from tokenstudy import core, lm
    from tokenstudy.lm import models as module
    load = module.load_lm
    def loaded(name="smollm2", device=None, dtype=None):
        if name != "smollm2": return load(name, device, dtype)
        model = copy.deepcopy(models[-1].model).to(core.dtype(dtype)).to(core.device(device))
        return models[-1]._replace(model=model, tokenizer=copy.deepcopy(models[-1].tokenizer))
    module.load_lm = lm.load_lm = loaded


def texts(output) -> str:
    "What one output says, without its pictures."
    data = getattr(output, "data", output)
    return "".join(data.get("text/markdown") or data.get("text/html") or data.get("text/plain") or "")


def run_cells(name: str, said):
    "Run the cells of a notebook in this process; what they say goes to the file `said`. The first cell that fails and its error, or None."
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output
    from tokenstudy.app import notebooks
    shell = InteractiveShell.instance()
    shell.enable_gui = lambda gui=None: None    # the shell of no terminal and no kernel
    shell.enable_matplotlib("inline")
    for cell in json.loads((ROOT/"nbs"/f"{name}.ipynb").read_text("utf-8"))["cells"]:
        cell = SimpleNamespace(**cell | dict(source="".join(cell["source"])))
        if not notebooks.runs_cell(cell): continue
        start = time.perf_counter()
        with capture_output() as captured: done = shell.run_cell(cell.source)
        error = done.error_before_exec or done.error_in_exec
        parts = [captured.stdout, captured.stderr and f"STDERR {captured.stderr}", *map(texts, captured.outputs)]
        said.write(f"=== {cell.id} {time.perf_counter() - start:.1f} s\n" + "\n".join(filter(None, parts)) + "\n")
        said.flush()
        if error is not None: return cell.id, error


def study(name: str, card: bool, folder: Path, shown: Path | None) -> dict:
    "Run one notebook in a folder of its own; seconds, and what failed."
    from tokenstudy import core
    for part in ("settings.ini", "docs", "nbs", "results"): (folder/part).symlink_to(ROOT/part)
    (folder/"cache").mkdir()
    (folder/"cache"/"lm").symlink_to(core.cache_dir()/"lm")                 # the conversion takes half a minute
    (folder/"data"/"gsm8k").mkdir(parents=True)
    for seed, split in enumerate(("train", "test")):
        (folder/"data"/"gsm8k"/f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums(12, seed)), "utf-8")
    os.environ.update(TOKENSTUDY_SETTINGS=json.dumps(CUTS.get(name, {})), TOKENSTUDY_HOME=str(folder), TOKENSTUDY_CACHE=str(folder/"cache"),
                      TOKENSTUDY_DATA=str(folder/"data"))
    os.chdir(folder)
    start, failed = time.perf_counter(), ""
    with contextlib.ExitStack() as stack:
        if card: stack.enter_context(importlib.import_module("pretend").card())
        said = stack.enter_context(open(shown/(name.replace("/", "-") + ".txt") if shown else os.devnull, "w", encoding="utf-8"))
        if found := run_cells(name, said):
            failed = f"cell {found[0]}: {short(found[1])}"
            traceback.print_exception(found[1])
    return dict(notebook=name, card=card, seconds=round(time.perf_counter() - start, 1), cpu=round(time.process_time(), 1), failed=failed)


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__)
    told.add_argument("--card", action="store_true")
    told.add_argument("--whole", action="store_true")
    told.add_argument("--texts", type=Path)
    told.add_argument("notebooks", nargs="*")
    told = told.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                               # what libraries print on import is no answer
    os.environ.update(TOKENSTUDY_SCALE="gpu", TOKENSTUDY_PROGRESS="off", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")
    for name in ("OMP", "MKL", "NUMBA"): os.environ[f"{name}_NUM_THREADS"] = "1"     # a fork has not the threads of a pool that was at work before
    for name in HEAVY: importlib.import_module(name)
    names = told.notebooks or with_gpu_scale()
    models = [importlib.import_module("tokenstudy.lm").load_lm("smollm2", "cpu", "float32")]
    read_once(models)
    importlib.import_module("tokenstudy.reasoning").grade(["#### 3"], ["3"])       # makes its grammar
    shallow = None if told.whole or not any(map(SHALLOW.match, names)) else with_layers(models[0], 2)
    if told.card:
        importlib.import_module("pretend")
        os.environ["TOKENSTUDY_DTYPE"] = "bf16"
    if told.texts: told.texts.mkdir(parents=True, exist_ok=True)
    shown = told.texts and told.texts.resolve()
    for name in names:
        pid = os.fork()
        if pid == 0:
            if shallow is not None and SHALLOW.match(name): models.append(shallow)
            code = 1
            try:
                with tempfile.TemporaryDirectory() as folder:
                    os.environ["IPYTHONDIR"] = folder
                    answers.write(json.dumps(study(name, told.card, Path(folder), shown)) + "\n")
                    answers.flush()
                code = 0
            except BaseException: traceback.print_exc()
            finally: os._exit(code)
        if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            answers.write(json.dumps(dict(notebook=name, card=told.card, failed=f"the process ended with {code}")) + "\n")
            answers.flush()


if __name__ == "__main__": main()
