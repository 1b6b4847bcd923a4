"""Runs what is to be checked under a pretend card, each area in a fork of one process that has imported the heavy libraries; a line of JSON for each
check. `python tests/device/run_card.py AREA…`; areas are those of
`paths.py`, `loops`, `faults`, and `examples:PACKAGE`, which runs the examples of a package's docstrings (minutes; some make tensors on the CPU)."""
import contextlib
import doctest
import importlib
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from unittest import mock

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE), str(ROOT), str(ROOT/"tests"/"quality")]
HEAVY = ("numpy", "scipy.stats", "numba", "torch", "torch._dynamo", "transformers", "datasets", "peft", "trl", "accelerate", "diffusers", "matplotlib.pyplot")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MADE = ("tensor", "as_tensor", "zeros", "ones", "full", "rand", "randn", "randint", "arange", "eye", "empty", "linspace")


def short(error: BaseException) -> str:
    "An error with the last lines of the library it went through."
    lines = [f"{Path(f.filename).parent.name}/{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__) if "/tokenstudy/" in f.filename]
    return f"{type(error).__name__}: {str(error).strip()[:300]} [{' < '.join(lines[::-1][:4])}]"


def onto_card(module: str, name: str):
    "A maker of models of the library, whose models go onto the card."
    made = importlib.import_module(module)
    make = getattr(made, name)
    def moved(*args, **options):
        found = make(*args, **options)
        (found.model if hasattr(found, "model") else found).to("cuda")
        return found
    moved.__doc__, moved.__name__, moved.__module__ = make.__doc__, name, module
    return mock.patch.object(made, name, moved)


class TorchOfExamples:
    "torch as the text of an example sees it: what it makes is on the card."
    def __init__(self, torch): self.torch = torch
    def __getattr__(self, name):
        found = getattr(self.torch, name)
        if name not in MADE: return found
        return lambda *args, **options: found(*args, **{"device": "cuda", **options})


def examples(package: str):
    "Every example of the modules of a package: (name, what failed)."
    from test_examples import MODULES, docstrings
    from pretend import card
    import torch
    parser, environment = doctest.DocTestParser(), dict(os.environ)
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    with card() as seen, onto_card("tokenstudy.lm.models", "tiny_lm"), onto_card("tokenstudy.brat.pipelines", "random_pipeline"):
        for name, module in MODULES.items():
            if not name.startswith(f"tokenstudy.{package}.") or name.endswith(".bench") or ">>>" not in module.text: continue
            made = importlib.import_module(name)
            for what, doc, line in docstrings(module):
                names = dict(vars(made))
                if "torch" in names: names["torch"] = TorchOfExamples(torch)
                test = parser.get_doctest(doc.replace('"cpu"', '"cuda"'), names, what, module.path, line - 1)
                if not test.examples: continue
                said = []
                runner.run(test, out=said.append)
                os.environ.clear()
                os.environ.update(environment)
                yield what, "".join(said)[-1500:], {}


def checks(area: str):
    "The checks of an area of `paths.py`: (name, what failed, what was seen)."
    import paths
    for name, check in paths.AREAS[area].items():
        try: yield name, "", paths.both(check) or {}
        except Exception as error: yield name, short(error), {}


def loops():
    "The hot loops: (name, what failed, waits of a step)."
    import loops as made
    for name, (loop, short_run, long_run) in made.LOOPS.items():
        try: yield name, "", made.per_step(loop, short_run, long_run)
        except Exception as error: yield name, short(error), {}


def faults():
    "What has to be refused: (name, what was said, {})."
    import loops as made
    for fault in made.FAULTS:
        try: fault()
        except (RuntimeError, TypeError) as error: yield fault.__name__, short(error), {}
        else: yield fault.__name__, "", {}
    yield "one_item_more", "", dict(waits=made.one_item_more())
    yield "restored", "", dict(restored=made.restored())


def run(area: str, answers) -> None:
    kind, _, package = area.partition(":")
    found = examples(package) if kind == "examples" else loops() if kind == "loops" else faults() if kind == "faults" else checks(area)
    for name, failed, seen in found:
        answers.write(json.dumps(dict(area=area, name=name, failed=failed, seen=seen, cpu=round(time.process_time(), 2))) + "\n")
        answers.flush()


def main(areas) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.update(TOKENSTUDY_DTYPE="float32", TOKENSTUDY_PROGRESS="off", TOKENSTUDY_SCALE="smoke", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")
    for name in HEAVY: importlib.import_module(name)
    importlib.import_module("pretend")
    for area in areas:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with tempfile.TemporaryDirectory() as folder:
                    for part in ("settings.ini", "results", "docs", "nbs"): Path(folder, part).symlink_to(ROOT/part)
                    os.chdir(folder)
                    run(area, answers)
                code = 0
            except BaseException as error:
                traceback.print_exc()
                with contextlib.suppress(Exception):
                    answers.write(json.dumps(dict(area=area, name="the area", failed=short(error), seen={})) + "\n")
                    answers.flush()
            finally: os._exit(code)
        _, status = os.waitpid(pid, 0)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        answers.write(json.dumps(dict(area=area, done=os.waitstatus_to_exitcode(status), cpu_so_far=round(used.ru_utime + used.ru_stime, 1))) + "\n")
        answers.flush()


if __name__ == "__main__": main(sys.argv[1:])
