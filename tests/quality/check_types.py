"mypy over the annotated interface of the library."
from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from check_interface import patched
from house import HERE, ROOT, Finding, Sources

ERROR = re.compile(r"^(?P<path>[^:\n]+):(?P<line>\d+): error: (?P<text>.*?)(?:  \[(?P<code>[\w-]+)\])?$", re.M)


def run_mypy(root: Path, package: str = "tokenstudy") -> str:
    "What mypy says of a package that lies in `root`; RuntimeError if it did not get as far as checking."
    user = os.getuid() if hasattr(os, "getuid") else 0
    place = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    cache = Path(tempfile.gettempdir())/f"tokenstudy-mypy-{user}"/place
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(HERE/"mypy.ini"), "--cache-dir", str(cache), "-p", package],
        cwd=root, env={**os.environ, "MYPYPATH": str(root)}, text=True, capture_output=True, timeout=600)
    if done.returncode not in (0, 1) or not re.search(r"^(Found \d+ error|Success)", done.stdout, re.M):
        raise RuntimeError(f"mypy could not check {package}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def patches(sources: Sources) -> set:
    "(class, method) that fastcore's `@patch` adds, which mypy cannot see."
    return {(owner.split(".")[-1], node.name) for m in sources.modules for node in m.tree.body
            if isinstance(node, ast.FunctionDef) and (owner := patched(node)) is not None}


def known_patch(text: str, known: set) -> bool:
    "Whether a complaint is only about a method that a patch adds."
    if m := re.match(r'"(?:type\[)?"?(?:[\w.]+\.)?(\w+)\]?"?(?:\[.*?\])?" has no attribute "(\w+)"', text): return m.groups() in known
    if m := re.match(r'(?:Item "(?:[\w.]+\.)?(\w+)" of ".*?") has no attribute "(\w+)"', text): return m.groups() in known
    if m := re.match(r'"(\w+)" not callable', text): return (m[1], "__call__") in known
    if m := re.match(r'Name "(\w+)" already defined', text): return m[1] in {name for _, name in known}
    return False


def findings(report: str, sources: Sources) -> list:
    "mypy's errors as findings; the name is mypy's code of the error."
    known, modules = patches(sources), {m.path: m for m in sources.modules}
    found = []
    for m in ERROR.finditer(report):
        path, line = m["path"].replace("\\", "/"), int(m["line"])
        if known_patch(m["text"], known): continue
        where = sources.where(modules[path], line) if path in modules else f"line {line}"
        found.append(Finding(path, where, m["code"] or "error", f"{m['text']} [{m['code']}]"))
    return found


def check_types(sources: Sources) -> list:
    "What mypy finds in the project's own tree."
    return findings(run_mypy(ROOT), sources)
