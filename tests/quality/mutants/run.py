"""Runs the tests of a module on its mutants, each in a forked process, and says which mutants no test notices.

    python tests/quality/mutants/run.py                               every module of `modules.MODULES`
    python tests/quality/mutants/run.py tvm/labels                    one of them
    python tests/quality/mutants/run.py tvm/labels review             one function of it
    python tests/quality/mutants/run.py tvm/labels report.txt         those that survived when report.txt was printed

One process imports the module and its tests, and runs each test once to learn which lines it reaches and how long it takes. Then it
forks for each mutant. The child puts the mutated code into the live functions and runs the tests that reach the changed statement,
quick ones first, until one fails. What is decided at import (defaults, constants, numba's kernels) is imported anew by a child
of a process that has all packages, but not the library. A mutant is killed if a test fails or takes five times its CPU time and
three seconds more, or if the module cannot be imported.

A score is killed / (mutants - equivalent). Equivalent mutants stand with their reasons in equivalent.txt, by the text of the line
they change; an entry that belongs to no mutant any more, or to one that is killed, is reported and makes the run fail, as survivors do."""
from __future__ import annotations

import gc
import importlib
import importlib.abc
import importlib.util
import inspect
import os
import pickle
import re
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Callable

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import pytest
from modules import EQUIVALENT, MODULES, PACKAGE, ROOT, Module
from mutate import Key, Mutant, mutants, read_equivalent, statements

PATIENCE = 3, 5            # a test may take 3 s and 5 times its CPU time; after 120 s of no answer the child is ended
MEMORY = 8 * 2**30         # bytes that a child may allocate
EXAMPLES = 30              # of a test by hypothesis, at most
BUDGET = 8                 # CPU seconds of tests for a mutant; what slower ones alone would notice counts as survived
ARGUMENTS = ["-x", "-q", "--tb=line", "--assert=plain", "--capture=sys", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "no:xdist", "-W", "ignore"]


@dataclass
class Known:
    "What one run of the tests has shown."
    seconds: dict[str, float] = field(default_factory=dict)                  # of CPU, by test
    tests: dict[int, set] = field(default_factory=lambda: defaultdict(set))  # that reach a line, by line
    packages: list[str] = field(default_factory=list)                        # that were imported

    def chosen(self, lines: range) -> list[str]:
        "Tests that reach one of the lines, quick ones first, as many as `BUDGET` allows; any of them if no test does: the lines are run at import."
        some = set().union(*(self.tests[line] for line in lines if line in self.tests)) or set(self.seconds)
        names, total = sorted(some, key=self.seconds.__getitem__), 0.
        return [n for n in names if (total := total + self.seconds[n]) < BUDGET or n == names[0]]


class Session:
    "A plugin of pytest that hands the collected tests to a function, instead of running them."
    def __init__(self, then: Callable[[dict], None], note: Path | None = None): self.then, self.note = then, note

    def pytest_collection_modifyitems(self, items):
        import hypothesis as h
        for item in items:                                      # a counterexample is enough, it need not be small
            if how := getattr(item.obj, "_hypothesis_internal_use_settings", None):
                item.obj._hypothesis_internal_use_settings = h.settings(
                    how, max_examples=min(how.max_examples, EXAMPLES), phases=[h.Phase.explicit, h.Phase.generate], report_multiple_bugs=False)

    def pytest_runtestloop(self, session):
        if session.testsfailed: os._exit(1)                     # a test file that cannot be imported
        self.then({item.nodeid: item for item in session.items})
        return True

    def pytest_runtest_logreport(self, report):
        if not report.failed: return
        if self.note: self.note.write_text(f"{report.nodeid}\n{report.longreprtext}", encoding="utf-8")
        os._exit(1)


def run_tests(items: dict, names: list[str], around: Callable = lambda name: None) -> None:
    "Run some tests; the process ends with 1 at the first that fails, and with 0 after the last."
    for name in names:
        around(name)
        items[name].config.hook.pytest_runtest_protocol(item=items[name], nextitem=None)
    os._exit(0)


def limited(known: Known) -> Callable:
    "For `run_tests`: the system ends the process when a test takes too much CPU time."
    def start(name): signal.setitimer(signal.ITIMER_PROF, PATIENCE[0] + PATIENCE[1] * known.seconds[name])
    return start


def forked(work: Callable[[], Any], patience: float = 120.) -> int:
    "The exit status of a forked process that does some work: 0 survived, 1 killed, negative: ended by a signal."
    child = os.fork()
    if not child:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2): os.dup2(null, stream)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        try: work()
        finally: os._exit(3)
    end, pause = time.monotonic() + patience, .002
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end: os.killpg(child, signal.SIGKILL)
        time.sleep(pause)
        pause = min(.05, 1.3 * pause)


def learn(items: dict, path: str, answer: Path) -> None:
    "Run every test once; write `Known` of the module's file at `path`."
    known, now = Known(), ""
    def local(frame, event, _):
        known.tests[frame.f_lineno].add(now)
        return local
    def trace(frame, event, _): return local(frame, event, _) if frame.f_code.co_filename == path else None
    class Setup:        # what a fixture runs may serve every test of the file
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_setup(self, item):
            nonlocal now
            name, now = now, f"setup of {item.nodeid.split('::')[0]}"
            try: return (yield)
            finally: now = name
    def around(name):
        nonlocal now
        at = time.process_time()
        if now: known.seconds[now] = at - begun[0]
        now, begun[0] = name, at
    begun = [0.]
    first = next(iter(items.values()))
    first.config.pluginmanager.register(Setup())
    threading.settrace(trace)
    sys.settrace(trace)
    for name, item in items.items():
        around(name)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    around("")
    sys.settrace(None)
    for line, names in known.tests.items():
        files = {name.removeprefix("setup of ") for name in names if name.startswith("setup of ")}
        known.tests[line] = {n for n in known.seconds if n in names or n.split("::")[0] in files}
    known.packages = [n for n, made in list(sys.modules.items()) if "-packages" in (getattr(made, "__file__", None) or "")]
    answer.write_bytes(pickle.dumps(known))
    os._exit(0)


def import_packages(known: Known) -> None:
    "What the tests have imported from elsewhere, so that no child has to."
    for package in known.packages:
        try: importlib.import_module(package)
        except Exception: pass                                  # made by another package while it was imported


def warm_up(items: dict, known: Known) -> None:
    "Compile numba's kernels once, by some quick tests."
    end = time.process_time() + 10
    for name in sorted(items, key=known.seconds.__getitem__):
        if .05 < known.seconds[name] < 5 and time.process_time() < end:
            items[name].config.hook.pytest_runtest_protocol(item=items[name], nextitem=None)


def changed_functions(old: CodeType, new: CodeType) -> list | None:
    "The functions and methods in which two compiled modules differ, as pairs of code; None if they differ outside of these."
    if old == new: return []
    if old.co_flags & inspect.CO_OPTIMIZED: return [(old, new)]
    apart = lambda code: (code.co_code, code.co_names, [(type(c), c) for c in code.co_consts if not isinstance(c, CodeType)])
    nested = [[c for c in code.co_consts if isinstance(c, CodeType)] for code in (old, new)]
    if apart(old) != apart(new) or len(nested[0]) != len(nested[1]): return None
    pairs = [changed_functions(a, b) for a, b in zip(*nested)]
    return None if None in pairs else sum(pairs, [])


def leave_uncompiled() -> None:
    "numba's functions stay Python, with the numbers and the errors that they have when they are compiled."
    import numba
    import numpy as np
    def plain(*function, **options):
        def wrap(f):
            def call(*given):
                with np.errstate(all="ignore"): return f(*(np.asarray(x)[()] for x in given))
            return call
        return wrap(function[0]) if function else wrap
    numba.njit = plain


def kernels_of(source: str) -> set[str]:
    "Functions that numba compiles or that remember their results: what a warm process has of them stays as it is."
    return set(re.findall(r"(?:@compiled\s+def |@functools.cache\s+def |_compiled\()(\w+)", source))


class Swapper:
    "Puts the code of mutants into the live functions of a module."
    def __init__(self, path: Path, compiled: bool):
        self.path, self.source = str(path), path.read_text(encoding="utf-8")
        self.code = compile(self.source, self.path, "exec", dont_inherit=True)
        self.kernels = kernels_of(self.source) if compiled else set()
        self.live: dict = defaultdict(list)
        for f in gc.get_objects():
            if isinstance(f, FunctionType) and f.__code__.co_filename == self.path:
                self.live[f.__code__.co_qualname, f.__code__.co_firstlineno].append(f)

    def swaps(self, mutant: Mutant) -> list | None:
        "Pairs (live function, new code), None if they are not enough."
        pairs = changed_functions(self.code, compile(mutant.source, self.path, "exec", dont_inherit=True))
        if not pairs or any(old.co_name in self.kernels for old, _ in pairs): return None
        found = [(f, new) for old, new in pairs for f in self.live[old.co_qualname, old.co_firstlineno]]
        return found if all(f.__code__.co_freevars == new.co_freevars for f, new in found) and found else None


class Imported(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    "Imports one module from another text."
    def __init__(self, name: str, path: Path, source: str): self.name, self.path, self.source = name, path, source

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def create_module(self, spec): return None

    def exec_module(self, module): exec(compile(self.source, str(self.path), "exec", dont_inherit=True), vars(module))


def judge(name: str, module: Module, only: Callable[[Mutant], bool] = lambda mutant: True) -> list[tuple[Mutant, bool]]:
    "All mutants of a module, and whether they were killed. Run in a process that has not imported the library."
    path = ROOT/PACKAGE/f"{name}.py"
    source = path.read_text(encoding="utf-8")
    wanted = [mutant for mutant in mutants(name, source, without=module.without) if only(mutant)]
    around, scratch = statements(source), Path(tempfile.mkdtemp(prefix="mutants"))
    arguments = [*ARGUMENTS, f"--rootdir={ROOT}", f"--basetemp={scratch/'tests'}", *(str(ROOT/test) for test in module.tests),
                 *(["-k", " and ".join(f"not {name}" for name in module.slow)] if module.slow else [])]
    dotted = f"{PACKAGE}/{name}".replace("/", ".")
    os.environ["NUMBA_CACHE_DIR"] = str(scratch/"numba")
    if not module.compiled: leave_uncompiled()

    def serve(items):
        "Learn, then judge the mutants that can be swapped in; write (known, {number: killed})."
        if forked(lambda: learn(items, str(path), scratch/"known"), 3600): os._exit(4)
        known, swapper, killed = pickle.loads((scratch/"known").read_bytes()), Swapper(path, module.compiled), {}
        import_packages(known)
        if module.compiled: warm_up(items, known)
        gc.freeze()
        for i, mutant in enumerate(wanted):
            if (swaps := swapper.swaps(mutant)) is None: continue
            def work():
                for function, code in swaps: function.__code__ = code
                run_tests(items, known.chosen(around[mutant.line]), limited(known))
            killed[i] = settled(forked(work), mutant)
            say(mutant, killed[i])
        (scratch/"judged").write_bytes(pickle.dumps((known, killed)))
        os._exit(0)

    def settled(status, mutant):
        if status in (3, 5): raise RuntimeError(f"the tests of {mutant.key} could not be run (status {status})")
        return status != 0

    server, note = os.fork(), scratch/"failed"
    if not server:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)            # what pytest has to say
        try: pytest.main(arguments, plugins=[Session(serve, note)])
        finally: os._exit(3)
    if os.waitstatus_to_exitcode(os.waitpid(server, 0)[1]):
        raise RuntimeError(f"the tests of {name} fail on the module as it is: {note.read_text(encoding='utf-8') if note.is_file() else ''}")
    known, killed = pickle.loads((scratch/"judged").read_bytes())
    import_packages(known)
    for i, mutant in enumerate(wanted):
        if i in killed: continue
        def work():
            if "numba" in sys.modules: sys.modules["numba"].config.CACHE_DIR = tempfile.mkdtemp(dir=scratch)    # it keys by bytecode, without constants
            sys.meta_path.insert(0, Imported(dotted, path, mutant.source))
            reached = range(0) if mutant.key.function in kernels_of(source) else around[mutant.line]      # no line of a kernel is seen
            then = lambda items: run_tests(items, [n for n in known.chosen(reached) if n in items], limited(known))
            if pytest.main(arguments, plugins=[Session(then)]): os._exit(1)
        killed[i] = settled(forked(work, 300), mutant)
        say(mutant, killed[i])
    return [(mutant, killed[i]) for i, mutant in enumerate(wanted)]


def say(mutant: Mutant, killed: bool) -> None:
    if sys.stderr.isatty() or os.environ.get("VERBOSE"): print("." if killed else "S", end="", file=sys.stderr, flush=True)


def report(results: dict[str, list], equivalent: dict[Key, str], whole: bool) -> tuple[str, bool]:
    "The survivors, stale entries and the table; whether there is nothing to be done."
    lines, rows, fine = [], [], True
    for name, judged in results.items():
        survivors = [m.key for m, killed in judged if not killed and m.key not in equivalent]
        same = sum(not killed and m.key in equivalent for m, killed in judged)
        left = len(judged) - same
        rows.append((name, len(judged), left - len(survivors), same, len(survivors), f"{100 * (left - len(survivors)) / max(left, 1):.1f} %"))
        lines += [f"{key}\n" for key in survivors]
        alive = {m.key for m, killed in judged if not killed}
        stale = [key for key in equivalent if key.module == name and key not in alive] if whole else []
        lines += [f"This entry of equivalent.txt belongs to no surviving mutant; take it out:\n{key}\n" for key in stale]
        fine &= not survivors and not stale
    numbers = [sum(row[i] for row in rows) for i in range(1, 5)]
    rows.append(("all", *numbers, f"{100 * numbers[1] / max(numbers[0] - numbers[2], 1):.1f} %"))
    head = ("module", "mutants", "killed", "equivalent", "survived", "score")
    lines += ["  ".join([f"{row[0]:24}", *(f"{x:>10}" for x in row[1:])]) for row in (head, *rows)]
    return "\n".join(lines), fine


def main(arguments: list[str]) -> int:
    names, some = [a for a in arguments if a in MODULES], [a for a in arguments if a not in MODULES]
    told = "".join(Path(a).read_text(encoding="utf-8") for a in some if Path(a).is_file())
    only = lambda mutant: not some or mutant.key.function in some or f"{mutant.key}\n" in told
    results, equivalent = {}, read_equivalent(EQUIVALENT)
    for name in names or MODULES:
        start, answer = time.monotonic(), Path(tempfile.mkstemp()[1])
        child = os.fork()                                       # what it imports is forgotten with it
        if not child:
            answer.write_bytes(pickle.dumps(judge(name, MODULES[name], only)))
            sys.stderr.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]: return 1
        results[name] = pickle.loads(answer.read_bytes())
        text, _ = report({name: results[name]}, equivalent, not some)
        print(f"{text}\n{name}: {time.monotonic() - start:.0f} s\n" if len(names) != 1 else text, flush=True)
    text, fine = report(results, equivalent, not some)
    if len(results) > 1: print(text)
    return 0 if fine else 1


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
