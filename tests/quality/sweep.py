"""Every public callable with every argument replaced by what it cannot use.

The valid call is taken from the example in the docstring: it runs until it reaches the callable. Each argument of that call, and each that
was left at its default, is then replaced by wrong values of its kind, one at a time."""
from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import doctest
import importlib
import importlib.util
import inspect
import io
import os
import random
import re
import signal
import sys
import traceback
import types
import typing
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from house import ROOT, Module
from test_examples import MODULES, docstrings

PACKAGE = "tokenstudy"
AREAS = ("core", "lm", "reasoning", "multidraft", "brat", "cdpo", "tvm", "app")
#: what writes among the package's own files; the test gives them others
WRITERS = {"core.files.add_asset", "reasoning.generator.embed_generator", "multidraft.distillation.embed_draft", "brat.recipe.embed"}
SHARED = {"Branches"}  # whose cache belongs to the object itself
PATIENCE = 5         # seconds after which a call hangs
GLANCE = .2          # seconds for a call that is long anyway


class Row(NamedTuple):
    label: str         # "core.statistics.wilson", "reasoning.trie.Trie" (its constructor), "reasoning.trie.Trie.nodes"
    module: str
    owner: Any         # a module or a class
    attribute: str
    function: Callable


class Call(NamedTuple):
    function: Callable
    args: tuple
    kwargs: dict


def area(name: str) -> types.ModuleType:
    "The table of an area: SEEN, LEGAL, SAME, FAULTS."
    spec = importlib.util.spec_from_file_location(f"bad_arguments_{name}", HERE/"bad_arguments"/f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def callables(made: types.ModuleType) -> Iterator[Row]:
    "What a module offers, by the names in `__all__`: its functions, and the constructors and methods of its classes."
    name = made.__name__
    short = name.removeprefix(PACKAGE + ".")
    for attribute in getattr(made, "__all__", ()):
        value = getattr(made, attribute)
        if getattr(value, "__module__", None) != name or not callable(value): continue
        if not isinstance(value, type): yield Row(f"{short}.{attribute}", name, made, attribute, value)
        elif not issubclass(value, BaseException): yield from methods(value, name, f"{short}.{attribute}")


def methods(cls: type, module: str, label: str) -> Iterator[Row]:
    for attribute, held in vars(cls).items():
        if attribute.startswith("_") and attribute not in ("__init__", "__call__"): continue
        function = held.__func__ if isinstance(held, (classmethod, staticmethod)) else held
        if not inspect.isfunction(function) or len(inspect.signature(function).parameters) < 2: continue
        yield Row(label + {"__init__": ""}.get(attribute, f".{attribute}"), module, cls, attribute, function)


@cache
def rows() -> dict:
    "label -> row, of the whole library; what takes no argument can be given no wrong one."
    importlib.import_module("numba")           # an import or a compilation that a call is cut in would leave it half done
    importlib.import_module(f"{PACKAGE}.multidraft.optimal").optimal_acceptance([.5, .5], [[.5, .5]] * 2)
    found = [row for name in MODULES for row in callables(importlib.import_module(name))]
    return {row.label: row for row in found if inspect.signature(row.function).parameters}


# A valid call: the example, until it reaches the callable

class Reached(BaseException):
    def __init__(self, args: tuple, kwargs: dict): self.args, self.kwargs = (args, kwargs), kwargs


@contextlib.contextmanager
def caught(row: Row) -> Iterator[None]:
    "While this lasts, a call of the function raises `Reached` with the arguments."
    def reach(args, kwargs): raise Reached(args, kwargs)
    checks = getattr(row.function, "__checks__", None)
    if checks is not None and not checks.late:
        checks.look = reach
        try: yield
        finally: del checks.look
        return
    held = vars(row.owner)[row.attribute]
    def stand_in(*args, **kwargs): reach(args, kwargs)
    setattr(row.owner, row.attribute, type(held)(stand_in) if isinstance(held, (classmethod, staticmethod)) else stand_in)
    try: yield
    finally: setattr(row.owner, row.attribute, held)


def source_of(label: str) -> tuple:
    "(module, text of the example) of the docstring of something."
    for name, module in MODULES.items():
        short = name.removeprefix(PACKAGE + ".")
        if label != short and not label.startswith(short + "."): continue
        for where, doc, _ in docstrings(module):
            if where.removeprefix(PACKAGE + ".") == label: return name, "".join(e.source for e in doctest.DocTestParser().get_examples(doc))
    return None, ""


def valid_call(row: Row, seen: Any = None) -> Call:
    "Of the function's own example, or of another's, or of Python given in the table."
    if isinstance(seen, tuple): module, text = f"{PACKAGE}.{seen[0]}", seen[1]
    else:
        module, text = source_of(seen or row.label)
        if not text and seen is None: module, text = source_of(row.label.rpartition(".")[0])     # of the class
    if not text: raise LookupError(f"{row.label} has no example that calls it, and no entry in SEEN")
    made = importlib.import_module(module)
    doc = ast.parse(text)
    with caught(row):
        names = dict(vars(made))
        try:
            for node in doc.body: exec(compile(ast.Module([node], []), "<example>", "exec"), names)
        except Reached as reached: args, kwargs = reached.args
        else: raise LookupError(f"{row.label} is not called by the example of {seen or row.label}")
    return Call(row.function, args, dict(kwargs))


def fresh(value: Any) -> Any:
    "A copy, so that one call does not disturb the next; models, tokenizers and data sets are shared."
    if type(value) in (list, tuple, set): return type(value)(map(fresh, value))
    if type(value) is dict: return {k: fresh(v) for k, v in value.items()}
    if isinstance(value, (np.ndarray, np.random.Generator, random.Random)): return copy.deepcopy(value)
    if type(value).__module__.split(".")[0] != PACKAGE or isinstance(value, type) or type(value).__name__ in SHARED: return value
    if "torch" in sys.modules:
        import torch
        torch.nn.Module.__deepcopy__ = lambda self, memo: self
    try: return copy.deepcopy(value)
    except Exception: return value
    finally:
        if "torch" in sys.modules: del torch.nn.Module.__deepcopy__


# Wrong values

def nothing() -> Iterator: yield from ()


WRONG = {
    "whole": {"None": None, "text": "text", "1.5": 1.5, "nan": float("nan"), "inf": float("inf"), "-1": -1, "0": 0, "huge": 10**30,
              "[]": [], "object": object(), "True": True},
    "number": {"None": None, "text": "text", "nan": float("nan"), "inf": float("inf"), "-1": -1., "0": 0., "[]": [], "object": object(),
               "True": True},
    "flag": {"None": None, "text": "text", "2": 2, "[]": [], "object": object()},
    "text": {"None": None, "1": 1, "bytes": b"text", "[]": [], "object": object(), "": "", "text": "text"},
    "path": {"None": None, "1": 1, "bytes": b"text", "[]": [], "object": object(), "": "", "missing": "missing/file", "folder": "folder"},
    "list": {"None": None, "1": 1, "text": "text", "[]": [], "[[]]": [[]], "[None]": [None], "[object]": [object()], "{}": {},
             "object": object(), "generator": nothing, "[nan]": [float("nan")]},
    "array": {"None": None, "text": "text", "[]": [], "ragged": [[1], [1, 2]], "texts": ["a", "b"], "object": object(), "{}": {},
              "deep": "deep", "nan": "nan", "short": "short"},
    "mapping": {"None": None, "1": 1, "text": "text", "[]": [], "{}": {}, "other keys": {"text": None}, "number keys": {1: 1}, "object": object()},
    "function": {"None": None, "1": 1, "text": "text", "[]": [], "object": object()},
    "thing": {"None": None, "1": 1, "text": "text", "[]": [], "{}": {}, "object": object()}}


def kind_of(value: Any, annotation: Any) -> str:
    "Which wrong values an argument is given: by what stands there in the valid call, else by what is announced."
    said = annotation if isinstance(annotation, str) else typing._type_repr(annotation)
    if isinstance(value, (bool, np.bool_)): return "flag"
    if isinstance(value, (int, np.integer)): return "number" if "float" in said and "int" not in said else "whole"
    if isinstance(value, (float, np.floating)): return "number"
    if isinstance(value, str): return "path" if "Path" in said else "text"
    if isinstance(value, os.PathLike): return "path"
    if isinstance(value, np.ndarray) or type(value).__name__ in ("Tensor", "Parameter"): return "array"
    if isinstance(value, dict): return "mapping"
    if isinstance(value, (list, tuple, set, range)) and type(value).__module__ == "builtins": return "list"
    if isinstance(value, (types.FunctionType, types.MethodType, types.BuiltinFunctionType)): return "function"
    if value is not None: return "thing"
    for word, kind in {"ndarray": "array", "Array": "array", "Tensor": "array", "Path": "path", "Callable": "function", "dict": "mapping",
                       "list": "list", "Sequence": "list", "Iterable": "list", "Collection": "list", "int": "whole", "float": "number",
                       "bool": "flag", "str": "text"}.items():
        if word in said: return kind
    return "thing"


def wrong_values(value: Any, kind: str) -> Iterator[tuple]:
    for name, bad in WRONG[kind].items():
        if bad is nothing: bad = nothing()
        if kind == "array" and name in ("deep", "nan", "short"):
            if value is None or getattr(value, "ndim", 0) == 0: continue
            if name == "deep": bad = value[None]
            elif name == "short":
                if len(value) < 2: continue
                bad = value[:-1]
            elif str(value.dtype).replace("torch.", "").startswith("float"): bad = value * float("nan")
            else: continue
        yield name, bad


# Judging

class Hangs(BaseException): "A call that does not end."


def ring(signum: int, frame: Any): raise Hangs


def words(parameter: str) -> list:
    "How a message may name a parameter: as it is called, with spaces, or one of several."
    found = [parameter, parameter.replace("_", " ")]
    return found + [f[:-1] for f in found if f.endswith("s") and len(f) > 2] + [f"{f[:-3]}y" for f in found if f.endswith("ies")]


def shows(error: BaseException, bad: Any) -> bool:
    "Whether a message quotes the text, or the path, that was given."
    return isinstance(bad, (str, os.PathLike)) and str(bad) != "" and bool(re.search(rf"['\" /]{re.escape(str(bad))}(?!\w)", str(error)))


def says_why(error: BaseException, names: list, bad: Any = None) -> str:
    "What is wrong with an error; empty if it is one of ours that names the argument, or Python's own of a file that cannot be read."
    said = f"{type(error).__name__}: {str(error)[:150]}"
    if isinstance(error, OSError) and shows(error, bad): return ""
    if type(error).__module__.split(".")[0] != PACKAGE:
        if not isinstance(error, (ValueError, TypeError)): return f"raw {said}"
        code = traceback.extract_tb(error.__traceback__)[-1]
        if code.filename != "<example>" and not Path(code.filename).is_relative_to(ROOT/PACKAGE): return f"from outside {said}"
    if any(re.search(rf"(?<![A-Za-z]){re.escape(n)}(?![A-Za-z])", str(error)) for n in names) or shows(error, bad): return ""
    return f"unnamed {said}"


def has_nan(value: Any, depth: int = 0) -> bool:
    if isinstance(value, float): return value != value
    if isinstance(value, np.ndarray) and value.dtype.kind == "f": return bool(np.isnan(value).any())
    if type(value).__name__ == "Tensor" and value.is_floating_point(): return bool(value.isnan().any())
    if depth < 3 and isinstance(value, (list, tuple)): return any(has_nan(v, depth + 1) for v in value[:20])
    if depth < 3 and isinstance(value, dict): return any(has_nan(v, depth + 1) for v in [value[k] for k in value][:20])
    return False


def outcome(call: Call) -> Any:
    "The result; of a generator its first value."
    args = [*map(fresh, call.args)]
    result = call.function(*args, **{k: fresh(v) for k, v in call.kwargs.items()})
    if call.function.__name__ == "__init__": result = args[0]
    if isinstance(result, types.GeneratorType): result = [*next(([x] for x in result), [])]
    elif isinstance(result, contextlib.AbstractContextManager) and type(result).__name__ == "_GeneratorContextManager":
        with result as result: pass
    return result


def replaced(call: Call, parameter: inspect.Parameter, signature: inspect.Signature, bad: Any) -> Call | None:
    "The call with one other argument; None if it cannot be said."
    names = list(signature.parameters)
    place = names.index(parameter.name)
    if parameter.kind is parameter.VAR_POSITIONAL: return call._replace(args=(*call.args[:place], bad))
    if parameter.kind is parameter.VAR_KEYWORD: return None
    if parameter.kind is not parameter.KEYWORD_ONLY and place < len(call.args): return call._replace(args=(*call.args[:place], bad, *call.args[place + 1:]))
    if parameter.kind is parameter.POSITIONAL_ONLY: return None
    return call._replace(kwargs={**call.kwargs, parameter.name: bad})


@contextlib.contextmanager
def quiet(seconds: float) -> Iterator[None]:
    "No output, no warnings, the environment as before, and an end."
    environment, folder, before = dict(os.environ), os.getcwd(), signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try: yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            os.chdir(folder)
            if "torch" in sys.modules: sys.modules["torch"].set_grad_enabled(True)   # a call that was cut may have left it off
            if dict(os.environ) != environment:
                os.environ.clear()
                os.environ.update(environment)


def attempt(call: Call, names: list, kind: type, bad: Any = None, seconds: float = PATIENCE, holes: bool = False,
            keeps: str = "", blocked: type | None = None) -> str:
    "'refused', 'taken', or what is wrong with the call's end."
    try:
        with quiet(seconds): result = outcome(call)
    except Hangs: return f"hangs for {seconds} seconds"
    except NotImplementedError: return "refused"            # what a class of one's own has to define
    except Exception as error:
        why = says_why(error, names, bad)
        return "taken" if why and type(error) is blocked else why or "refused"
    except SystemExit as end: return "refused" if end.code == 2 else f"ends with {end.code}"    # argparse has named it on stderr
    except BaseException as error: return f"raw {type(error).__name__}: {error}"
    if keeps and getattr(result, keeps, call) is bad: return "refused"     # a record that holds what it is given
    if kind is not None and not isinstance(result, kind): return f"gives {type(result).__name__} instead of {getattr(kind, '__name__', 'a number')}"
    return "gives not-a-number" if not holes and has_nan(result) else "taken"


def sweep(row: Row, table: types.ModuleType) -> Iterator[tuple]:
    "(parameter, name of the wrong value, end of the call) for all of them."
    call = valid_call(row, table.SEEN.get(row.label))
    signature = inspect.signature(row.function)
    long = row.label in table.LONG or row.label in table.FAULTS
    given = signature.bind_partial(*call.args, **call.kwargs).arguments
    kind, holes = None, False
    record = row.attribute == "__init__" and dataclasses.is_dataclass(row.owner)
    blocked = None                     # the error of a valid call that cannot be done on this machine
    if not long:
        try:
            with quiet(60): valid = outcome(call)
            kind, holes = type(valid), has_nan(valid)
        except Exception as error:
            if row.label not in table.ANY: raise
            blocked = type(error)
    if row.label in table.ANY: kind = object            # a result of several types
    if kind in (int, float): kind = (int, float)
    for i, (name, parameter) in enumerate(signature.parameters.items()):
        if i == 0 and name in ("self", "cls"): continue
        if record and name not in row.owner.__annotations__: continue      # of a library's class above it
        value = given.get(name, parameter.default)
        if value is parameter.empty: value = None
        if parameter.kind is parameter.VAR_POSITIONAL: value = value[0] if value else None
        optional = parameter.default is None or "None" in str(parameter.annotation) or "Any" in str(parameter.annotation)
        for bad_name, bad in wrong_values(value, kind_of(value, parameter.annotation)):
            if bad is None and optional: continue
            if bad_name in table.NEVER.get(row.label, ()): continue              # what cannot be stopped once it has begun
            changed = replaced(call, parameter, signature, bad)
            if changed is None: break
            patience = GLANCE if long and (name, bad_name) in legal_of(row, table) else PATIENCE        # else a slow machine is not yet at the refusal
            end = attempt(changed, words(name) + table.SAME.get(row.label, {}).get(name, []), object if long else kind, bad, patience, holes or kind is object, name if record else "", blocked)
            yield name, bad_name, "taken" if long and end.startswith("hangs") else end


def legal_of(row: Row, table: types.ModuleType) -> set:
    "(parameter, name of the value) of all that is legal."
    return {(p, v) for p, values in table.LEGAL.get(row.label, {}).items() for v in values.split("|")}


def judge(row: Row, table: types.ModuleType) -> list:
    "The faults of a callable: wrong values that end badly, those that are taken unannounced, and those announced that are not taken."
    legal = legal_of(row, table)
    found, met = [], set()
    for parameter, value, end in sweep(row, table):
        if end == "refused": continue
        if end in ("taken", "gives not-a-number" if value == "nan" else "taken") and (parameter, value) in legal: met.add((parameter, value))
        else: found.append(f"{row.label}({parameter}={value}): {end}")
        if found and row.label in table.FAULTS: return found                     # one is enough where it is known
    return found + [f"{row.label}({p}={v}): announced as legal, but it is not taken" for p, v in sorted(legal - met)]
