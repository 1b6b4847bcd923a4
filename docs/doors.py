"""Writes `__init__.pyi` beside every package's `__init__.py`, from the table of lazy names in it: a type checker and an editor then see
through the front doors. Run `python docs/doors.py` in the root of the project (`make export` does)."""
import ast
from pathlib import Path


def table(source: str) -> dict:
    "module -> names, as a package's `__init__` gives them to lazy_loader; empty if it does not."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "submod_attrs": return ast.literal_eval(node.value)
    return {}


def stub(names: dict) -> str:
    "The typed front door."
    lines = ["# Made by docs/doors.py from __init__.py"]
    lines += [f"from .{module} import {name} as {name}" for module, found in names.items() for name in found]
    return "\n".join(lines) + "\n"


def main(root: Path):
    for file in sorted((root/"tokenstudy").glob("*/__init__.py")):
        if names := table(file.read_text(encoding="utf-8")): file.with_suffix(".pyi").write_text(stub(names), encoding="utf-8")


if __name__ == "__main__": main(Path.cwd())
