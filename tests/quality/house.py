"""The house's own checks: sources, findings, allowed places, and the list for people.

    python tests/quality/house.py                     counts of every check, folder by folder
    python tests/quality/house.py words               every finding of one check
    python tests/quality/house.py words tvm           those of one folder
    python tests/quality/house.py all tvm             everything that is found in one folder

A check is a pure function from `Sources` to a list of `Finding`. Nothing here imports the library. Findings in generated modules
name the notebook's cell beside the line; run nbdev-export first.

A finding may stay where tests/quality/allowed/<check>.txt says why, in lines of one of the forms

    nbs/core/05_files.ipynb: reason
    nbs/core/05_files.ipynb :: name: reason

The path may hold *. The name is the function, `Class.method`, `function.parameter`, cell id (sizes), acronym, private name or mypy's
code of the error; for words it may be any phrase of the text around the word. A line that allows nothing fails."""
from __future__ import annotations

import ast
import fnmatch
import functools
import importlib
import io
import json
import re
import sys
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHECKS = {  # name of a check: the file that holds `check_<name>`
    "words": "check_words", "acronyms": "check_acronyms", "signatures": "check_interface",
    "docs": "check_interface", "private": "check_code", "duplicates": "check_code",
    "sizes": "check_code", "types": "check_types"}


@dataclass(frozen=True)
class Finding:
    path: str          # of the file, from the project's root: nbs/tvm/02_verifier.ipynb
    where: str         # place in the file, for people: "cell 12 line 3"
    name: str          # what an allowed line names: a function, a cell, a phrase
    text: str          # what is wrong, and the way out
    context: str = ""  # words around it, in which a phrase of an allowed line may stand

    @property
    def place(self) -> str: return f"{self.path}: {self.where}"

    @property
    def folder(self) -> str: return folder_of(self.path)

    def __str__(self) -> str: return f"{self.place}: {self.text}" + f" …{self.context}…" * bool(self.context)


def folder_of(path: str) -> str:
    "core, lm, …, or root for what lies directly in nbs/ or tokenstudy/."
    parts = PurePosixPath(path).parts
    return parts[1] if len(parts) > 2 else "root"


@dataclass(frozen=True)
class Cell:
    index: int
    id: str
    kind: str    # "markdown", "code" or "raw"
    source: str

    @property
    def exported(self) -> bool:
        return self.kind == "code" and bool(re.search(r"^#\s*\|\s*exports?i?\b", self.source, re.M))

    @functools.cached_property
    def python(self) -> str:
        "The source with IPython's magics blanked out, line by line."
        if re.match(r"\s*%%(?!time|capture)", self.source): return ""
        return re.sub(r"^(\s*)[%!].*$", r"\1pass", self.source, flags=re.M)

    @functools.cached_property
    def tree(self) -> ast.Module | None:
        "Syntax tree of a code cell; None where it is not plain Python."
        try: return ast.parse(self.python) if self.kind == "code" else None
        except SyntaxError: return None


@dataclass(frozen=True)
class Notebook:
    path: str
    cells: tuple

    @property
    def module(self) -> str | None:
        "Path of the module it makes, None if it makes none."
        for cell in self.cells:
            if m := re.search(r"^#\s*\|\s*default_exp\s+(\S+)", cell.source, re.M):
                return f"tokenstudy/{m[1].replace('.', '/')}.py"
        return None


@dataclass(frozen=True)
class Module:
    path: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module: return ast.parse(self.text)

    @functools.cached_property
    def lines(self) -> list: return self.text.splitlines()

    @functools.cached_property
    def marks(self) -> list:
        "(line, notebook, cell id) of nbdev's marks in the order of lines."
        found = []
        for number, line in enumerate(self.lines, 1):
            if m := re.match(r"# %% (\S+\.ipynb) #(\w+)", line):
                parts = []
                for part in (*PurePosixPath(self.path).parent.parts, *PurePosixPath(m[1]).parts):
                    if part == "..": parts.pop()
                    else: parts.append(part)
                found.append((number, "/".join(parts), m[2]))
        return found

    @functools.cached_property
    def public(self) -> set | None:
        "The names in `__all__`, None if there is none."
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                try: return set(ast.literal_eval(node.value))
                except ValueError: return None
        return None


@dataclass(frozen=True)
class Sources:
    notebooks: tuple = ()
    modules: tuple = ()

    @functools.cached_property
    def cells(self) -> dict:
        "(notebook, cell id) to the cell's number."
        return {(nb.path, cell.id): cell.index for nb in self.notebooks for cell in nb.cells}

    @functools.cached_property
    def handwritten(self) -> list:
        "Modules that no notebook makes."
        return [m for m in self.modules if not m.marks and "AUTOGENERATED" not in m.text]

    def where(self, module: Module, line: int) -> str:
        "A line of a module, and the notebook's cell that it comes from."
        mark = max((m for m in module.marks if m[0] <= line), default=None)
        if mark is None: return f"line {line}"
        return f"line {line} ({mark[1]} cell {self.cells.get(mark[1:], '#' + mark[2])})"


def load(root: Path = ROOT) -> Sources:
    "All notebooks under nbs/ and all modules under tokenstudy/, whatever the tree."
    def those(folder, pattern):
        for path in sorted((root/folder).rglob(pattern)):
            name = path.relative_to(root)
            if not any(p.startswith((".", "_")) and not p.startswith("__init__") for p in name.parts):
                yield name.as_posix(), path.read_text(encoding="utf-8")
    notebooks = []
    for name, text in those("nbs", "*.ipynb"):
        cells = json.loads(text)["cells"]
        notebooks.append(Notebook(name, tuple(
            Cell(i, c.get("id", str(i)), c["cell_type"], "".join(c["source"]))
            for i, c in enumerate(cells))))
    return Sources(tuple(notebooks), tuple(Module(*m) for m in those("tokenstudy", "*.py")))


def toy_notebook(path: str, *cells: str) -> Notebook:
    "A notebook from texts; those that start with 'md:' are Markdown."
    return Notebook(path, tuple(
        Cell(i, f"c{i}", "markdown", c[3:].lstrip()) if c.startswith("md:") else Cell(i, f"c{i}", "code", c)
        for i, c in enumerate(cells)))


def toy(**files: str) -> Sources:
    "One module for each keyword: `toy(core_files=…)` is tokenstudy/core/files.py."
    return Sources((), tuple(Module(f"tokenstudy/{k.replace('_', '/', 1)}.py", v) for k, v in files.items()))


def comments(text: str) -> list:
    "(line, text, whether the line holds nothing else) of each comment of a piece of Python."
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                found.append((token.start[0], token.string, token.line.lstrip().startswith("#")))
    except (tokenize.TokenError, IndentationError, SyntaxError): pass
    return found


# What is allowed, and what is still to be done

@dataclass(frozen=True)
class Allowed:
    path: str
    name: str | None
    reason: str

    def covers(self, f: Finding) -> bool:
        return fnmatch.fnmatchcase(f.path, self.path) and (
            self.name is None or self.name == f.name or bool(f.context) and self.name in f.context)


def read_allowed(text: str) -> list:
    "Lines `path: reason` or `path :: name: reason`; # begins a comment line. ValueError without a reason."
    found = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"): continue
        m = re.match(r"(?P<path>[^\s:]+)(?: :: (?P<name>.+?))?: +(?P<reason>\S.*)$", line)
        if not m: raise ValueError(f"not `path: reason` or `path :: name: reason`: {line}")
        found.append(Allowed(m["path"], m["name"], m["reason"]))
    return found


def split(findings: list, allowed: list) -> tuple:
    "(findings that no line allows, allowed lines that allow nothing)."
    rest = [f for f in findings if not any(a.covers(f) for a in allowed)]
    return rest, [a for a in allowed if not any(a.covers(f) for f in findings)]


def complaints(check: str, findings: list, allowed: list) -> list:
    "What is wrong: findings that no line allows, and allowed lines that are stale."
    rest, stale = split(findings, allowed)
    said = [f"allowed/{check}.txt: nothing is found at {a.path} {a.name or ''}: delete the line" for a in stale]
    counts = Counter(f.folder for f in rest)
    for folder in sorted(counts):
        said.append(f"{check}, {folder}: {counts[folder]} findings (python tests/quality/house.py {check} {folder}):")
        said += [str(f) for f in rest if f.folder == folder][:40]
    return said


def stored(kind: str, check: str) -> str:
    path = HERE/kind/f"{check}.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


@functools.cache
def found(check: str) -> tuple:
    "All findings of a check in this project, allowed or not."
    return tuple(getattr(importlib.import_module(CHECKS[check]), f"check_{check}")(project()))


@functools.cache
def project() -> Sources: return load()


def judge(check: str) -> list:
    "The complaints of a check about this project."
    return complaints(check, list(found(check)), read_allowed(stored("allowed", check)))


def main(argv: list) -> int:
    names = [a for a in argv if not a.startswith("-")]
    if {"-h", "--help"} & set(argv) or names and names[0] not in {*CHECKS, "all"}:
        print(__doc__, "\nChecks: " + ", ".join(CHECKS), sep="\n")
        return 0 if "--help" in argv or "-h" in argv else 2
    checks = list(CHECKS) if not names or names[0] == "all" else names[:1]
    left = {c: split(list(found(c)), read_allowed(stored("allowed", c)))[0] for c in checks}
    if names:
        for check in checks:
            for f in left[check]:
                if f.folder in (names[1:] or [f.folder]): print(f"[{check}] {f}" if len(checks) > 1 else f)
        return 0
    folders = sorted({f.folder for fs in left.values() for f in fs})
    print(f"{'':<12}" + "".join(f"{f:>12}" for f in folders))
    for check in checks:
        counts = Counter(f.folder for f in left[check])
        print(f"{check:<12}" + "".join(f"{counts[f]:>12}" for f in folders))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    import house  # the module that the checks import, so that findings are of one class

    sys.exit(house.main(sys.argv[1:]))
