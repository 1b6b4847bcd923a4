"Every example (>>>) in a docstring of the library runs and says what it says."
import ast
import doctest
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from house import ROOT, Module, project

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = {m.path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): m for m in project().modules}


def docstrings(module: Module) -> Iterator[tuple]:
    "(name, docstring, line) of the module, its functions, classes and methods: from the text, so that no decorator hides one."
    def walk(node: ast.AST, name: str) -> Iterator[tuple]:
        if doc := ast.get_docstring(node): yield name, doc, node.body[0].lineno
        for part in node.body:
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): yield from walk(part, f"{name}.{part.name}")
    yield from walk(module.tree, module.path.removesuffix(".py").replace("/", "."))


def failures(module: Module, made: ModuleType) -> list:
    "What the examples of a module say when they fail, each run with the module's own names."
    said, parser, environment = [], doctest.DocTestParser(), dict(os.environ)
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    for name, doc, line in docstrings(module):
        test = parser.get_doctest(doc, dict(vars(made)), name, module.path, line - 1)
        if not test.examples: continue
        runner.run(test, out=said.append)
        os.environ.clear()              # an example may name a project folder: the next one, and other tests, start as before
        os.environ.update(environment)
    return said


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    "In a folder that is a project of its own, with the committed records: what an example writes goes there."
    if ">>>" not in MODULES[name].text: return
    made = importlib.import_module(name)
    for part in ("settings.ini", "results", "docs", "nbs"): (tmp_path/part).symlink_to(ROOT/part)
    monkeypatch.chdir(tmp_path)
    assert (said := failures(MODULES[name], made)) == [], "".join(said)


@pytest.mark.parametrize("doc, fails", [
    (">>> double(2)\n    4", False), (">>> double(2)\n    5", True), (">>> double('a')\n    'a...b'", True),
    (">>> double('ab')\n    'a...b'", False), (">>> 1/0\n    0", True), (">>> absent", True)])
@pytest.mark.parametrize("code", [
    'def double(x):\n    """Twice.\n\n    {}"""\n    return 2 * x', 'class C:\n    def f(self):\n        """It.\n\n    {}"""\ndef double(x): return 2 * x',
    'def hide(f): return 1\ndef double(x): return 2 * x\n@hide\ndef f():\n    """It.\n\n    {}"""', '"""It.\n\n    {}"""\ndef double(x): return 2 * x'])
def test_a_wrong_example_is_found(code, doc, fails):
    text, made = code.replace("{}", doc), ModuleType("made")
    exec(compile(text, "made", "exec"), vars(made))
    assert bool(failures(Module("tokenstudy/made.py", text), made)) == fails
