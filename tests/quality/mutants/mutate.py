"""Mutants of a module's text, made with mutmut's operators, and the file of those that no test can tell from the original.

The operators are mutmut's; its runner is not used, because it leaves out every decorated function (`@patch`, `@property`, numba's
kernels), and starts from modules that are already imported.

Not mutated: docstrings, annotations, decorators, imports, calls of `len` and `isinstance` (as in mutmut), the texts of errors and
warnings, which is all that stands in a `raise`, a `warn(...)` or a `warnings.warn(...)`, and `__all__`. Whether an error comes is
mutated, but not the rules of `check_module(...)`: tests/quality/test_bad_arguments.py looks at each of them."""
from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators

MESSAGE = m.Call(func=m.Attribute(value=m.Name("warnings"), attr=m.Name("warn")) | m.Name("warn"))
RULES = m.Call(func=m.Name("check_module"))
DOCSTRING = m.Expr(value=m.SimpleString() | m.ConcatenatedString())
NAMES = m.Assign(targets=[m.AssignTarget(target=m.Name("__all__"))])
NEVER_CALLED = m.Call(func=m.Name("len") | m.Name("isinstance"))
LEFT_ALONE = (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom, cst.Raise)


@dataclass(frozen=True)
class Key:
    "What a mutant changes, without line numbers."
    module: str    # multidraft/schemes
    function: str  # Scheme.select, or the name of a module's constant
    before: str    # the lines that it changes, stripped, joined by newlines
    after: str     # what they become

    def __str__(self) -> str:
        lines = [f"- {line}" for line in self.before.splitlines()] + [f"+ {line}" for line in self.after.splitlines()]
        return "\n    ".join([f"{self.module} :: {self.function}", *lines])


@dataclass(frozen=True)
class Mutant:
    key: Key
    source: str  # of the whole mutated module
    line: int    # where the changed expression begins, from 1


class _Visitor(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider, WhitespaceInclusivePositionProvider)

    def __init__(self):
        super().__init__()
        self.scope, self.found = [], []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, LEFT_ALONE) or m.matches(node, MESSAGE | RULES | DOCSTRING | NAMES): return False
        if name := self._name(node): self.scope.append((node, name))
        made = [new for kind, operator in mutation_operators if isinstance(node, kind) for new in operator(node)]
        if made and not m.matches(node, NEVER_CALLED):
            line, span = (self.get_metadata(p, node) for p in self.METADATA_DEPENDENCIES)
            self.found += [(new, line.start.line, span, ".".join(name for _, name in self.scope)) for new in made]
        return True

    def on_leave(self, node: cst.CSTNode) -> None:
        if self.scope and self.scope[-1][0] is node: self.scope.pop()

    def _name(self, node: cst.CSTNode) -> str | None:
        "Of a function, a class, or a constant of the module."
        if isinstance(node, (cst.FunctionDef, cst.ClassDef)): return node.name.value
        if self.scope or not isinstance(node, (cst.Assign, cst.AnnAssign)): return None
        target = node.target if isinstance(node, cst.AnnAssign) else node.targets[0].target
        return target.value if isinstance(target, cst.Name) else None


def mutants(module: str, source: str, *, without: tuple = ()) -> Iterator[Mutant]:
    "All different mutants of a module's text, those of the functions, classes and constants `without` left out."
    visitor = _Visitor()
    tree = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    tree.visit(visitor)
    lines, seen = source.splitlines(keepends=True), {_tree(source)}
    for new, line, span, function in visitor.found:
        if function.split(".")[0] in without or function in without: continue
        first, last = span.start.line - 1, span.end.line - 1
        old = lines[first:last + 1]
        changed = lines[first][:span.start.column] + tree.module.code_for_node(new) + lines[last][span.end.column:]
        text = "".join([*lines[:first], changed, *lines[last + 1:]])
        if (parsed := _tree(text)) is None or parsed in seen: continue    # 1e300 + 1 is 1e300
        seen.add(parsed)
        yield Mutant(Key(module, function or "<module>", *_difference(old, changed.splitlines(keepends=True))), text, line)


def _difference(old: list, new: list) -> tuple[str, str]:
    "The lines that differ, stripped, without those that are alike at both ends."
    old, new = ([line.strip() for line in some] for some in (old, new))
    while old and new and old[0] == new[0]: old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]: old, new = old[:-1], new[:-1]
    return "\n".join(old), "\n".join(new)


def _tree(text: str) -> bytes | None:
    "A digest of the syntax tree; None if there is none."
    try:
        compile(text, "mutant", "exec")
        return hashlib.sha256(ast.dump(ast.parse(text)).encode()).digest()
    except (SyntaxError, ValueError): return None


def statements(source: str) -> dict[int, range]:
    "For each line the lines of the innermost statement that it belongs to; of a compound statement its head only."
    found: dict[int, range] = {}
    for node in ast.walk(ast.parse(source)):                      # breadth first, so that inner ones come later
        if not isinstance(node, ast.stmt): continue
        body = getattr(node, "body", None)
        end = max(node.lineno, body[0].lineno - 1) if isinstance(body, list) and body else node.end_lineno
        for line in range(node.lineno, end + 1): found[line] = range(node.lineno, end + 1)
    return found


def read_equivalent(path: Path) -> dict[Key, str]:
    """The reasons of the mutants that are listed. An entry is a block of lines without an empty one between:

        core/statistics :: bootstrap_interval
        - the changed line
        + what it becomes
        = why no test can tell

    Several pairs of - and + share the next reason."""
    found: dict[Key, str] = {}
    waiting: list[Key] = []
    place, before, after = ("", ""), [], []

    def close():
        if before or after: waiting.append(Key(*place, "\n".join(before), "\n".join(after)))
        before.clear(), after.clear()

    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line, mark = line.strip(), line.strip()[:2].strip()
        if mark in ("-", "=", "") or " :: " in line and mark != "+":
            if after or mark != "-": close()
        if not line or line.startswith("#"): continue
        if mark == "-": before.append(line[2:])
        elif mark == "+": after.append(line[2:])
        elif mark == "=":
            if not waiting: raise ValueError(f"{path}, line {number}: a reason without a mutant")
            found |= dict.fromkeys(waiting, line[2:])
            waiting.clear()
        elif line.count(" :: ") == 1: place = tuple(line.split(" :: "))
        else: raise ValueError(f"{path}, line {number}: {line!r} is neither a place nor begins with -, + or =")
    if waiting or before or after: raise ValueError(f"{path}: the last mutant has no reason (a line that begins with =)")
    return found
