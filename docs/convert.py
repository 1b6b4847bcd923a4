"""Sphinx sources from the notebooks. nbdev's `proc_nbs` writes them to `_proc/`; this script turns those into MyST-NB pages,
adds an API page per module and a table of contents, and leaves everything Sphinx needs in `build/docs/`.

No cell is executed: pages show the outputs stored in the notebooks. Run `python docs/convert.py` in the root of the project.
"""
import importlib, importlib.util, inspect, json, os, re, runpy, shutil, sys
from pathlib import Path, PurePosixPath

import yaml
from fastcore.docments import DocmentText

FOLDERS = {"core": "Foundations", "lm": "Language models", "reasoning": "Reasoning",
           "multidraft": "Multi-draft sampling", "brat": "Bonus orthogonal tokens",
           "cdpo": "Critical tokens", "tvm": "Token-supervised values",
           "together": "All together", "app": "The application"}   # in reading order
DIRECTIVE = re.compile(r"^#\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*?)[ \t]*(?:\n|\Z)", re.MULTILINE)
CALLOUT = re.compile(r"^(:{3,})[ \t]*\{\.callout-(\w+)([^}\n]*)\}[ \t]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
VERBATIM = re.compile(r"(^```.*?^```|^~~~.*?^~~~|\$\$.*?\$\$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?\[[^\]\n]*\]\([^)\n]*\))")
TAGS = {("echo", "false"): "remove-input", ("output", "false"): "remove-output", ("code-fold", "true"): "hide-input"}
LIVE = "application/vnd.jupyter.widget-view+json", "application/javascript"   # need a kernel or scripts from elsewhere


def page(path) -> str:
    "Page name of a notebook path: without suffix and numeric prefix, as nbdev names it."
    path = PurePosixPath(path)
    return str(path.with_name(re.sub(r"^\d+[a-z0-9]*_", "", path.stem)))


def reading_order(path) -> tuple:
    "Sort key of a notebook path: README's source, the folders in their order, then the other pages of the root."
    path, folders = PurePosixPath(path), list(FOLDERS)
    if len(path.parts) == 1: return 0 if path.stem == "index" else 2, 0, path.name
    return 1, folders.index(path.parts[0]) if path.parts[0] in folders else len(folders), str(path)


def check_title(nb: dict, path: str):
    "nbdev keeps the title, the summary and a list of settings of the first text cell, and drops what else it holds; ValueError if there is more."
    first = next(("".join(cell["source"]) for cell in nb["cells"] if cell["cell_type"] == "markdown"), "")
    if rest := re.sub(r"\A\s*# [^\n]+\n*((> ?[^\n]*|- [^\n]*)\n*)*", "", first).strip():
        raise ValueError(f"nbs/{path}: the cell of the title holds more than title and summary, which the site would lose: {rest[:60]!r}; "
                         "put it into a cell of its own")


def callout(found: re.Match) -> str:
    "A Quarto callout as a MyST admonition; its title is the `title` attribute or a heading on its first line."
    _, kind, attributes, body = found.groups()
    heading = re.match(r"\s*#+[ \t]+(.+)\n", body)
    if heading: body = body[heading.end():]
    title = re.search(r'title="([^"]*)"', attributes) or heading
    return f":::{{admonition}} {title[1]}\n:class: {kind}\n{body}:::" if title else f":::{{{kind}}}\n{body}:::"


def relink(link: str, here: str, pages: set) -> str:
    "A link to a notebook leads to its page; one to another file of the project becomes plain text; others stay."
    text, target, anchor = re.fullmatch(r"(!?\[[^\]]*\])\(([^)#\s]*)(#?[^)]*)\)", link).groups()
    if not target: return f"{text}({anchor.lower()})"   # JupyterLab keeps the capitals of a heading in its anchor, MyST does not
    if text.startswith("!") or re.match(r"\w+:", target): return link
    folder = PurePosixPath(here).parent
    name = page(os.path.normpath(folder/target))
    return f"{text}({os.path.relpath(name, folder)}.ipynb{anchor.lower()})" if name in pages else text[1:-1]


def prose(text: str, here: str = "", links: dict = {}, figures: set = frozenset(), pages: set = frozenset()) -> str:
    "Markdown as MyST. `links` maps names of our functions to labels; `figures` and `pages` are what may be referred to."
    def linked(name): return f"[{name[0]}](#{links[name[1]]})" if name[1] in links else name[0]

    def rewritten(part):
        part = re.sub(r"(\]\([^)\s]*\))\{[^}\n]*\}", r"\1", part)
        part = re.sub(r"(?<![\w@`])@(fig-[\w-]+)", lambda f: f"{{numref}}`{f[1]}`" if f[1] in figures else f[0], part)
        return "".join(relink(piece, here, pages) if i % 2 else re.sub(r"(?<![`}\w])`([\w.]+)(?:\(\))?`(?!`)", linked, piece)
                       for i, piece in enumerate(LINK.split(part)))
    return "".join(part if i % 2 else rewritten(part) for i, part in enumerate(VERBATIM.split(CALLOUT.sub(callout, text))))


def options(cell: dict) -> dict:
    "The `#|` directives of a code cell."
    return {key: value.strip("\"'") for key, value in DIRECTIVE.findall("".join(cell["source"]))} if cell["cell_type"] == "code" else {}


def convert(nb: dict, here: str = "", links: dict = {}, figures: set = frozenset(), pages: set = frozenset()) -> dict:
    "A notebook that nbdev has processed, as a MyST-NB notebook; `here` is its page name."
    cells = []

    def add(kind, source, metadata={}, **more):
        cells.append({"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": metadata, "source": source, **more})
    for cell in nb["cells"]:
        source, directives = "".join(cell["source"]), options(cell)
        if cell["cell_type"] == "raw" and source.startswith("---"):
            front = yaml.safe_load(source.strip().strip("-"))
            add("markdown", f"# {front['title']}" + (f"\n\n*{front['description'].strip()}*" if front.get("description") else ""))
        elif cell["cell_type"] == "markdown" and not source.startswith("<!-- WARNING"):
            add("markdown", prose(source, here, links, figures, pages))
        elif cell["cell_type"] == "code" and directives.get("include") != "false" and (code := DIRECTIVE.sub("", source).strip("\n")):
            outputs = [output for output in cell["outputs"] if not set(LIVE) & set(output.get("data", {}))]
            if directives.get("output") == "asis":
                text = "\n\n".join("".join(o["data"]["text/markdown"]) for o in outputs if "text/markdown" in o.get("data", {}))
                text = prose(re.sub(r"\A---\n+|^\[source\].*\n+", "", text, flags=re.MULTILINE), here, links, figures, pages)
                name = re.match(r"show_doc\(([\w.]+)", code)
                if text: add("markdown", f"(doc-{name[1].lower()})=\n{text}" if name else text)
                continue
            metadata = {"tags": tags} if (tags := [TAGS[item] for item in directives.items() if item in TAGS]) else {}
            if "fig-cap" in directives:
                metadata["mystnb"] = {"figure": {"caption": directives["fig-cap"]} | ({"name": directives["label"]} if "label" in directives else {})}
            add("code", code, metadata, outputs=outputs, execution_count=None)
    language = {"name": "python", "pygments_lexer": "ipython3"}
    return {"cells": cells, "metadata": {"kernelspec": nb["metadata"].get("kernelspec", {}), "language_info": language}, "nbformat": 4, "nbformat_minor": 5}


def fenced(text: str) -> str:
    "A docstring whose examples (from `>>>` to the next empty line) are blocks of code."
    return re.sub(r"(?m)^>>> .*(?:\n(?!\s*$).*)*", lambda found: f"```pycon\n{found[0]}\n```", text)


def public(module) -> dict:
    "Name -> function or class for what a module exports, methods with a docstring included as `Class.method`, in the order of the source."
    found = {}
    for name in module.__all__:
        thing = getattr(module, name)
        if not (inspect.isfunction(thing) or inspect.isclass(thing)) or thing.__module__ != module.__name__: continue
        found[name] = thing
        methods = vars(thing).items() if inspect.isclass(thing) else ()
        found |= {f"{name}.{key}": getattr(value, "fget", None) or getattr(value, "__func__", value) for key, value in methods
                  if not key.startswith("_") and (callable(value) or isinstance(value, (property, staticmethod, classmethod))) and inspect.getdoc(value)}
    return found


def label(module: str, name: str, thing) -> str:
    "Target of an API entry of a module, whose name is given without the package. Sphinx ignores case in targets, so classes are marked."
    return f"api-{module}-{name}{'-class' if inspect.isclass(thing) else ''}".lower()


def api_page(module, source: str, links: dict) -> str:
    "The API page of a module in MyST: signature with its comments, docstring, and a link to the notebook that derives it."
    short = module.__name__.partition(".")[2]
    parts = [f"(api-{short})=\n# {module.__name__}", f"Generated from the notebook {{doc}}`/{source}`."]
    for name, thing in public(module).items():
        signature = str(DocmentText(thing, docstring=False))
        if inspect.isclass(thing): signature = re.sub(r"\Adef", "class", signature)
        parts += [f"({label(short, name, thing)})=\n{'###' if '.' in name else '##'} `{name}`",
                  f"```python\n{signature}\n```", prose(fenced(inspect.getdoc(thing) or ""), links=links)]
    return "\n\n".join(parts) + "\n"


def contents(paths: list, modules: list) -> str:
    "The table of contents in MyST, a part per folder; `paths` are notebook paths in reading order."
    parts = {}
    for path in paths:
        place, name = reading_order(path)[0], PurePosixPath(path).parts[0]
        if place == 0: continue
        title = FOLDERS.get(name, name) if place == 1 else "Pages to look things up in"
        parts.setdefault(title, []).append(page(path))
    parts["Reference"] = [f"api/{name}" for name in modules]
    return "\n".join("\n".join([":::{toctree}", ":hidden:", f":caption: {title}", *names, ":::", ""]) for title, names in parts.items())


def main(root: Path, target: Path):
    "Write the Sphinx sources of the project in `root` into the folder `target`, which is emptied first."
    from nbdev.serve import proc_nbs
    processed = proc_nbs(force=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(processed, target, ignore=shutil.ignore_patterns("*.ipynb", "*.yml", "__pycache__", ".*"))
    paths = sorted((str(p.relative_to(processed).as_posix()) for p in processed.rglob("*.ipynb") if p.name[0] not in "_."), key=reading_order)
    notebooks = {path: json.loads((processed/path).read_text(encoding="utf-8")) for path in paths}
    for path in paths: check_title(json.loads((root/"nbs"/path).read_text(encoding="utf-8")), path)
    figures = {o["label"] for nb in notebooks.values() for cell in nb["cells"] if "label" in (o := options(cell))
               and any("image/png" in out.get("data", {}) for out in cell["outputs"])}
    pages = {page(path): path for path in paths}
    index = runpy.run_path(str(root/"tokenstudy/_modidx.py"))["d"]["syms"]
    sources = {next(iter(symbols.values()))[0].partition(".html")[0]: name.partition(".")[2] for name, symbols in index.items() if symbols}
    sources = {name: sources[name] for name in pages if name in sources}   # page -> module, in reading order
    modules = {short: importlib.import_module(f"tokenstudy.{short}") for short in sources.values()}
    own = {short: {item: label(short, item, thing) for item, thing in public(module).items()} for short, module in modules.items()}
    names = [item for items in own.values() for item in items]
    shared = {item: entry for items in own.values() for item, entry in items.items() if names.count(item) == 1}
    shared |= {f"tokenstudy.{short}": f"api-{short}" for short in modules}
    for name, path in pages.items():
        nb = convert(notebooks[path], name, shared | own.get(sources.get(name), {}), figures, set(pages))
        if name == "index":
            toc = contents([p for p in paths if p != path], list(modules))
            nb["cells"].append({"cell_type": "markdown", "id": "contents", "metadata": {}, "source": toc})
        (target/name).parent.mkdir(parents=True, exist_ok=True)
        (target/f"{name}.ipynb").write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")
    (target/"api").mkdir()
    for name, short in sources.items():
        (target/"api"/f"{short}.md").write_text(api_page(modules[short], name, shared | own[short]), encoding="utf-8")
    mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent/"static/mathjax/tex-svg-full.js"
    (target/"_static").mkdir(exist_ok=True)
    shutil.copy(mathjax, target/"_static/mathjax.js")
    shutil.copy(root/"docs/conf.py", target/"conf.py")


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    main(Path.cwd(), Path("build/docs"))
