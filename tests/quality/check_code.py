"Private names stay in their module, nothing stands twice, and pieces have a size that can be read."
from __future__ import annotations

import ast
import re
from typing import Iterator

from house import Finding, Module, Sources

SAME = 6                                # lines that may not stand twice
MODULE, CELL, LINE = 400, 40, 100       # lines of a module, lines of an exported cell, characters of a line


PROTOCOLS = re.compile(r"__\w+__|_+|_repr_\w+_|_ipython_\w+_|_asdict|_replace|_fields|_make")  # called from outside by design


def private(name: str) -> bool: return name.startswith("_") and not PROTOCOLS.fullmatch(name)


def own(trees: list) -> set:
    "The private names that some code itself defines: functions, classes, variables, attributes, fields, parameters."
    names = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): names.add(node.name)
            elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
                names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
            elif isinstance(node, ast.arg): names.add(node.arg)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setattr" and len(node.args) > 1:
                names.add(str(getattr(node.args[1], "value", "")))
    return {n for n in names if private(n)}


def from_library(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and bool(node.level or (node.module or "").split(".")[0] == "tokenstudy")


def imported(trees: list) -> set:
    "The names under which some code holds modules, classes and functions of the library."
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {name.asname or name.name for node in nodes if from_library(node) for name in node.names} | {
        name.asname or "tokenstudy" for node in nodes if isinstance(node, ast.Import) for name in node.names
        if name.name.split(".")[0] == "tokenstudy"}


def heirs(tree: ast.AST, ours: set) -> set:
    "The nodes inside classes that inherit from the library: what `self` has there may be another module's."
    return {id(part) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
            and any(ast.unparse(base).split(".")[0] in ours for base in node.bases) for part in ast.walk(node)}


def borrowed(tree: ast.AST, mine: set, ours: set, theirs: dict) -> Iterator[tuple]:
    """(line, name, how) of private names of the library that some code takes from elsewhere in it. `mine`: names that the code defines
    itself; `ours`: names of the library that it imports; `theirs`: private name to the modules that define it."""
    inheriting = heirs(tree, ours)
    for node in ast.walk(tree):
        if from_library(node):
            for name in node.names:
                if private(name.name): yield node.lineno, name.name, f"import of {name.name} from {node.module or '.'}"
        if not isinstance(node, ast.Attribute) or not private(node.attr): continue
        root = node.value
        while isinstance(root, ast.Attribute): root = root.value
        if isinstance(root, ast.Name) and root.id in ours and node.attr not in mine:
            yield node.lineno, node.attr, f"use of {ast.unparse(node)}"
        elif isinstance(root, ast.Name) and root.id in ("self", "cls") and id(node) not in inheriting: continue
        elif node.attr not in mine and node.attr in theirs and not isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr, f"use of {ast.unparse(node)}, which is private in {', '.join(sorted(theirs[node.attr]))}"


def check_private(sources: Sources) -> list:
    "Private names used outside the module (and the notebook) that defines them."
    defined = {m.path: own([m.tree]) for m in sources.modules}
    theirs, found = {}, []
    for path, names in defined.items():
        for name in names: theirs.setdefault(name, set()).add(path)
    for module in sources.modules:
        for line, name, how in sorted(set(borrowed(module.tree, defined[module.path], imported([module.tree]), theirs))):
            found.append(Finding(module.path, sources.where(module, line), name, f"{how}: make it public or move it"))
    for nb in sources.notebooks:
        trees = [c.tree for c in nb.cells if c.tree is not None]
        mine, ours = own(trees) | defined.get(nb.module, set()), imported(trees)
        for cell in nb.cells:
            if cell.tree is None or cell.exported: continue
            for line, name, how in sorted(set(borrowed(cell.tree, mine, ours, theirs))):
                found.append(Finding(nb.path, f"cell {cell.index} line {line}", name, f"{how}: make it public or move it"))
    return found


def telling(module: Module) -> list:
    "(number, text) of the lines that say something: no blanks, comments, imports, brackets, and no `__all__`."
    dropped = set()
    for node in ast.walk(module.tree):
        names = [getattr(t, "id", "") for t in getattr(node, "targets", [])]
        if isinstance(node, (ast.Import, ast.ImportFrom)) or {"__all__", "_all_"} & set(names):
            dropped |= set(range(node.lineno, node.end_lineno + 1))
    lines = ((i, re.sub(r"\s+", " ", line).strip()) for i, line in enumerate(module.lines, 1) if i not in dropped)
    return [(i, line) for i, line in lines if not line.startswith("#") and len(re.findall(r"\w", line)) > 2]


def check_duplicates(sources: Sources) -> list:
    "Blocks of six or more lines that stand twice in the library."
    first, found = {}, []
    lines = {m.path: telling(m) for m in sources.modules}
    by_path = {m.path: m for m in sources.modules}
    for path, said in lines.items():
        end = -1                               # index behind the last block found, so that a block is told once
        for at in range(len(said) - SAME + 1):
            key = tuple(text for _, text in said[at:at + SAME])
            if key not in first:
                first[key] = (path, at)
                continue
            other, there = first[key]
            if other == path and there + SAME > at or at < end: continue
            size = SAME
            while at + size < len(said) and there + size < len(lines[other]) and said[at + size][1] == lines[other][there + size][1]: size += 1
            end = at + size
            line, twin = said[at][0], lines[other][there][0]
            found.append(Finding(path, sources.where(by_path[path], line), key[0],
                                 f"{size} lines that stand also in {other} line {twin}: {key[0]}"))
    return found


def check_sizes(sources: Sources) -> list:
    "Modules of more than 400 lines, exported cells of more than 40, lines of code of more than 100 characters."
    found = []
    for module in sources.modules:
        if len(module.lines) > MODULE:
            found.append(Finding(module.path, "module", "module", f"{len(module.lines)} lines; at most {MODULE}"))
    code = [(nb.path, f"cell {c.index} ", c.id, c.source, c.exported) for nb in sources.notebooks for c in nb.cells if c.kind == "code"]
    code += [(m.path, "", "line", m.text, False) for m in sources.handwritten]
    for path, where, name, source, exported in code:
        lines = [line for line in source.splitlines() if not re.match(r"#\s*\|", line)]
        if exported and len(lines) > CELL: found.append(Finding(path, where.strip(), name, f"{name}: {len(lines)} lines; at most {CELL}"))
        for number, line in enumerate(source.splitlines(), 1):
            if len(line) > LINE and not re.search(r"https?://\S{40}", line):
                found.append(Finding(path, f"{where}line {number}", name, f"{name}: {len(line)} characters; at most {LINE}"))
    return found
