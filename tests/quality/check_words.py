"Words that the house does not use, in what people read: Markdown, docstrings, comments, captions, messages; and in names."
from __future__ import annotations

import ast
import re
from typing import Iterator, NamedTuple

from house import Cell, Finding, Notebook, Sources, comments

I = re.IGNORECASE
TREE = (r"file|folder|director|tree|trie|node|branch|root\b|leaf|leaves|depth|draft|accepted|network|graph|flow\b|augmenting"
        r"|module|url|import|code|host name|windows|pathlib|disk|cache|checkout|machine|http|glob|\bPIL\b")
PLACE = (r"side|hand|end|edge|half|halves|panel|column|plot|picture|figure|image|axis|axes|margin|border|corner|arrow|angle"
         r"|neighbou?r|child|padding|padded|part|bar|curve|of\b|away|stochastic|singular|after|before|now|here|there|at\b|then")
RUNS = r"process|worker|owner|thread|lock|machine|server|parent|child|kernel|engine"

# what is flagged, what is meant, and around which words it is something else
WORDS = [
    (r"\blaws?\b", "distribution, or probabilities", lambda b, a: re.search(r"(scaling|power|zipf's|de morgan's)\s$", b, I)
        or re.match(r"\s(of large numbers|of total)", a, I)),
    (r"\bpeers?\b(?!-review)", "baseline, or its name", None),
    (r"\bwhat came out\b", "Results", None),
    (r"\bplainly:", "Result:", None),
    (r"\bpaths?\b(?!lib)", "sample, solution or response (a path is in a tree, or of a file)",
        lambda b, a: re.search(TREE, b[-120:] + " " + a[:120], I)),
    (r"(?<![-/])\bright\b(?![-/])(?!\w)", "correct", lambda b, a: direction(b, a) or re.search(r"\bc(om|am)(e|es|ing)\s$", b, I)),
    (r"\b(alive|dead)\b", "solvable, unsolvable", lambda b, a: re.search(RUNS, b[-50:] + " " + a[:50], I)
        or re.match(r"\s(code|ends?|link)", a, I)),
    (r"\bsharp(er|est)?\b", "low-entropy", lambda b, a: re.match(
        r"\s(bound|inequalit|constant|estimate|image|picture|edge|line|corner|outline|drop|rise|fall|turn|peak)", a, I)),
    (r"\bhotter\b", "at a higher temperature", None),
    (r"\b(comes?|came|coming) right\b", "ends correctly, is correct", None),
    (r"\bgoes on\b", "continues", None),
    (r"\b(mistake|error|misreading|slip)s?( that)? stands?\b", "remains", None),
    (r"\brims?\b", "grid edge", None),
    (r"\b(learne?[dt]|new|bonus) words?\b", "placeholder token, learned embedding", None),
]
NAMES = {"law": "distribution", "laws": "distributions", "hotter": "temperature", "rim": "edge"}


def direction(before: str, after: str) -> bool:
    "Whether `right` between these texts is a side and no judgement."
    if re.search(r"(left|top|bottom|upper|lower|far)(\s*(,|and|or|to|→|->))*\s*(the\s)?$", before, I): return True
    if re.match(rf"\s*(and|or|to|,|/)?\s*(the\s)?left\b|\s({PLACE})|\s?:", after, I): return True
    if re.search(r"left\W[^.]{0,60}\($", before, I) and after.startswith(")"): return True
    stop = r"\s*([.,;:)\]|]|$|\s(of|and|is|are|the|in|by|with|from|where|we|shows?|has|have|for|as|than|one)\b)"
    return bool(re.search(r"\b(to|on|at|from)\s(the\s|its\s)?$", before, I) and re.match(stop, after, I)) \
        or bool(re.search(r"\b(in its own|all)\s$", before, I))


class Piece(NamedTuple):
    cell: int | None  # None in a module
    line: int
    text: str


def blank(pattern: str, text: str, by: str = " ", flags: int = 0) -> str:
    "Replace what matches, keeping the lines."
    return re.sub(pattern, lambda m: by + "\n" * m[0].count("\n"), text, flags=flags)


def plain(text: str) -> str:
    "Prose without code, formulas, tags and link targets, line for line."
    text = blank(r"^\s*(```|~~~).*?^\s*\1\s*$", text, flags=re.M | re.S)
    text = blank(r"<!--.*?-->|\$\$.+?\$\$|<(style|script|svg).*?</\1>", text, flags=re.S)
    text = blank(r"(`+)[^`]+?\1", text, "◇")
    text = blank(r"(?<![\\\w])\$[^$\n]+\$", text, "◇")
    text = blank(r"\]\([^)\s]*\)", text, "]")
    text = blank(r"^\s*>>> .*$|^\s*\.\.\. .*$", text, flags=re.M)
    return blank(r"</?\w[^>]*>|https?://\S+", text)


def strings(tree: ast.AST) -> Iterator[tuple]:
    "(line, text) of strings of three or more words, and of every docstring and every string in an exception, a help text, a title or a caption."
    said = set()
    for node in ast.walk(tree):
        inside = []
        if isinstance(node, ast.Raise): inside = [node]
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node): inside = [node.body[0]]
        elif isinstance(node, ast.keyword) and node.arg and re.search(
                "caption|note|title|help|description|epilog|label|alt|text|message|summary", node.arg): inside = [node.value]
        elif isinstance(node, ast.Call) and re.search("caption|title|label|print|warn|markdown|annotate", called(node), I):
            inside = node.args
        for part in inside: said |= {id(n) for n in ast.walk(part) if isinstance(n, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in said or len(node.value.split()) > 2: yield node.lineno, node.value


def called(node: ast.Call) -> str:
    f = node.func
    return f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else ""


def code_prose(text: str, tree: ast.AST | None) -> Iterator[tuple]:
    "(line, text) of the comments and strings of Python that people read."
    for line, comment, _ in comments(text):
        if not re.match(r"#\s*\|(?!\s*fig-)", comment) and not comment.startswith("# %%"): yield line, comment[1:]
    if tree is not None: yield from strings(tree)


def pieces(nb: Notebook) -> Iterator[Piece]:
    "Everything in a notebook that is prose."
    for cell in nb.cells:
        if cell.kind == "markdown": yield Piece(cell.index, 1, cell.source)
        elif cell.kind == "code":
            for line, text in code_prose(cell.python, cell.tree): yield Piece(cell.index, line, text)


def find_words(text: str) -> list:
    "(offset of the line, the word, what to write, its surroundings) for each word of the list in a piece of prose."
    text, found = plain(text), []
    for pattern, better, fine in WORDS:
        for m in re.finditer(pattern, text, I):
            before, after = text[max(0, m.start() - 150):m.start()], text[m.end():m.end() + 150]
            if fine and fine(re.sub(r"\s+", " ", before), re.sub(r"\s+", " ", after)): continue
            around = re.sub(r"\s+", " ", before[-35:] + m[0] + after[:35]).strip()
            found.append((text[:m.start()].count("\n"), m[0].lower(), better, around))
    return found


def bad_names(tree: ast.AST | None) -> Iterator[tuple]:
    "(line, name, what to write) of public classes, functions and parameters named with a word of the list."
    for node in ast.walk(tree) if tree is not None else ():
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"): continue
        names = [(node.lineno, node.name)]
        if not isinstance(node, ast.ClassDef):
            a = node.args
            names += [(p.lineno, f"{node.name}.{p.arg}") for p in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
        for line, name in names:
            for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name.split(".")[-1]):
                if word.lower() in NAMES: yield line, name, NAMES[word.lower()]


def check_words(sources: Sources) -> list:
    "Words of the 'not' column of the house's list, in prose and in public names."
    found = []
    for nb in sources.notebooks:
        for cell, line, text in pieces(nb):
            found += [Finding(nb.path, f"cell {cell} line {line + at}", word, f"{word!r}: write {better}", around)
                      for at, word, better, around in find_words(text)]
        for cell in nb.cells:
            if cell.exported: found += [name_finding(nb.path, f"cell {cell.index} ", *x) for x in bad_names(cell.tree)]
    for module in sources.handwritten:
        for line, text in code_prose(module.text, module.tree):
            found += [Finding(module.path, f"line {line + at}", word, f"{word!r}: write {better}", around)
                      for at, word, better, around in find_words(text)]
        found += [name_finding(module.path, "", *x) for x in bad_names(module.tree)]
    return found


def name_finding(path: str, cell: str, line: int, name: str, better: str) -> Finding:
    return Finding(path, f"{cell}line {line}", name, f"the name {name}: call it by {better}")
