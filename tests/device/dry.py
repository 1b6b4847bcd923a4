"""Runs notebooks at gpu scale with the settings that `cuts.json` cuts, each in a fork of one process that has imported the heavy libraries and read the
embedded language model; a line of JSON for each. `python tests/device/dry.py [--card] [--texts FOLDER] [NOTEBOOK…]`: notebooks such as cdpo/03_finding,
all that have a gpu scale by default; `--card` has them compute in bf16 on a pretend card (`pretend.py`); texts of the outputs go into FOLDER.

Runs, caches and the problems stand in a temporary folder. The problems are ours, in GSM8K's format, and easy, so that some solutions are correct."""
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

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE), str(ROOT)]
HEAVY = ("numpy", "scipy.stats", "scipy.optimize", "numba", "torch", "torch._dynamo", "transformers", "datasets", "peft", "trl", "accelerate", "diffusers",
         "matplotlib_inline.backend_inline", "IPython.core.interactiveshell", "tokenstudy.app.notebooks")
CUTS = json.loads((HERE/"cuts.json").read_text("utf-8"))


def with_gpu_scale() -> list:
    "Names of the notebooks that have settings for the gpu scale, such as cdpo/03_finding."
    def calls(file):
        cells = json.loads(file.read_text("utf-8"))["cells"]
        return any(re.search(r"\bcore\.scale\(", "".join(c["source"])) for c in cells if c["cell_type"] == "code")
    return [f"{f.parent.name}/{f.stem}" for f in sorted((ROOT/"nbs").glob("*/*.ipynb")) if f.parent.name != "app" and calls(f)]


def problems(folder: Path) -> None:
    "Sums in GSM8K's format."
    folder.mkdir(parents=True)
    for split, seed in (("train", 0), ("test", 1)):
        draw, rows = random.Random(seed), []
        for _ in range(24):
            a, b, c = draw.randint(1, 5), draw.randint(1, 4), draw.randint(1, 3)
            rows.append(dict(question=f"Ann has {a} pens. She gets {b} more, then {c} more. How many pens does she have?",
                             answer=f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b} pens.\n{a + b} + {c} = <<{a + b}+{c}={a + b + c}>>{a + b + c} pens.\n#### {a + b + c}"))
        (folder/f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def read_once() -> None:
    "The embedded language model is read from its file once, and copied from then on."
    from tokenstudy import lm
    from tokenstudy.lm import models
    load, found = models.load_lm, {}
    def loaded(name="smollm2", device=None, dtype=None):
        from tokenstudy import core
        if name != "smollm2": return load(name, device, dtype)
        if "cpu" not in found: found["cpu"] = load(name, "cpu", "float32")
        made = copy.deepcopy(found["cpu"].model).to(core.dtype(dtype)).to(core.device(device))
        return models.LM(made, copy.deepcopy(found["cpu"].tokenizer))
    models.load_lm = lm.load_lm = loaded
    loaded("smollm2", "cpu", "float32")


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
    for cell in notebooks.read_notebook(ROOT/"nbs"/f"{name}.ipynb").cells:
        if not notebooks.runs_cell(cell): continue
        start = time.perf_counter()
        with capture_output() as captured: done = shell.run_cell(cell.source)
        error = done.error_before_exec or done.error_in_exec
        parts = [captured.stdout, captured.stderr and f"STDERR {captured.stderr}", *map(texts, captured.outputs)]
        said.write(f"=== {cell.id} {time.perf_counter() - start:.1f} s\n" + "\n".join(filter(None, parts)) + "\n")
        said.flush()
        if error is not None: return cell.id, error


def short(error: BaseException) -> str:
    "An error with the last lines of the library it went through."
    lines = [f"{Path(f.filename).parent.name}/{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__) if "/tokenstudy/" in f.filename]
    return f"{type(error).__name__}: {str(error).strip()[:300]} [{' < '.join(lines[::-1][:4])}]"


def study(name: str, card: bool, folder: Path, shown: Path | None) -> dict:
    "Run one notebook in a folder of its own; seconds, and what failed."
    for part in ("settings.ini", "docs", "nbs", "results"): (folder/part).symlink_to(ROOT/part)
    problems(folder/"data"/"gsm8k")
    cuts = {k: v for k, v in CUTS.get(name, {}).items() if k != "card"}
    os.environ.update(TOKENSTUDY_SETTINGS=json.dumps(cuts), TOKENSTUDY_HOME=str(folder), TOKENSTUDY_CACHE=str(folder/"cache"),
                      TOKENSTUDY_DATA=str(folder/"data"))
    os.chdir(folder)
    start, failed = time.perf_counter(), ""
    with contextlib.ExitStack() as stack:
        if card and CUTS.get(name, {}).get("card", True): stack.enter_context(importlib.import_module("pretend").card())
        said = stack.enter_context(open(shown/(name.replace("/", "-") + ".txt") if shown else os.devnull, "w", encoding="utf-8"))
        if found := run_cells(name, said):
            failed = f"cell {found[0]}: {short(found[1])}"
            traceback.print_exception(found[1])
    return dict(notebook=name, card=card, seconds=round(time.perf_counter() - start, 1), failed=failed)


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__)
    told.add_argument("--card", action="store_true")
    told.add_argument("--texts", type=Path)
    told.add_argument("notebooks", nargs="*")
    told = told.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                               # what libraries print on import is no answer
    os.environ.update(TOKENSTUDY_SCALE="gpu", TOKENSTUDY_PROGRESS="off", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg",
                      IPYTHONDIR=tempfile.mkdtemp())
    if told.card: os.environ["TOKENSTUDY_DTYPE"] = "bf16"
    for name in HEAVY: importlib.import_module(name)
    if told.card: importlib.import_module("pretend")
    read_once()
    if told.texts: told.texts.mkdir(parents=True, exist_ok=True)
    shown = told.texts and told.texts.resolve()
    for name in told.notebooks or with_gpu_scale():
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with tempfile.TemporaryDirectory() as folder:
                    answers.write(json.dumps(study(name, told.card, Path(folder), shown)) + "\n")
                    answers.flush()
                code = 0
            except BaseException: traceback.print_exc()
            finally: os._exit(code)
        if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            answers.write(json.dumps(dict(notebook=name, card=told.card, failed=f"the process ended with {code}")) + "\n")
            answers.flush()


if __name__ == "__main__": main()
