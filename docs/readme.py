"README.md from `nbs/index.ipynb`; its pictures, drawn anew from the records in `results/`, become files in `nbs/images/`. Run `python docs/readme.py` in the root of the project."
import posixpath
import re
from pathlib import Path

from nbconvert import MarkdownExporter
from nbdev.process import NBProcessor
from nbdev.processors import clean_magics, hide_, hide_line, rm_export, strip_ansi
import nbformat

from convert import DIRECTIVE, LINK, options
from tokenstudy.app.charts import picture_files


def moved(link: re.Match) -> str:
    "A link of a notebook in `nbs/`, made relative to the root of the project."
    text, target = re.fullmatch(r"(!?\[[^\]]*\])\(([^)]*)\)", link[0]).groups()
    return link[0] if re.match(r"\w+:|#", target) else f"{text}({posixpath.normpath(posixpath.join('nbs', target))})"


def moved_picture(source: re.Match) -> str:
    "A picture of an HTML element of a notebook in `nbs/`, made relative to the root of the project."
    return source[0] if re.match(r"\w+:|/", source[2]) else f'{source[1]}="{posixpath.normpath(posixpath.join("nbs", source[2]))}"'


def readme(root: Path) -> tuple[str, dict]:
    "The text of README.md and its pictures (path relative to `root` -> bytes)."
    processor = NBProcessor(root/"nbs/index.ipynb", procs=[strip_ansi, hide_line, rm_export, clean_magics, hide_], rm_directives="quarto", process=True)
    cells = []
    captions = iter([options(cell)["fig-cap"] for cell in processor.nb.cells if "fig-cap" in options(cell)])
    for cell in processor.nb.cells:
        found, source = options(cell), "".join(cell.source)
        if cell.cell_type == "raw" or found.get("include") == "false": continue
        if cell.cell_type == "markdown":
            cells.append(nbformat.v4.new_markdown_cell(LINK.sub(moved, source)))
            continue
        outputs = [nbformat.from_dict(output) for output in cell.outputs] if found.get("output") != "false" else []
        for output in outputs:   # GitHub strips styles: the Markdown or text form of a table or strip is what can be read there
            if {"text/markdown", "text/plain"} & set(output.get("data", {})): output.data.pop("text/html", None)
            if text := "".join(output.get("data", {}).get("text/markdown", [])):
                output.data["text/markdown"] = re.sub(r'(src|srcset)="([^"]*)"', moved_picture, LINK.sub(moved, text))
        cells.append(nbformat.v4.new_code_cell("" if found.get("echo") == "false" else DIRECTIVE.sub("", source).strip(), outputs=outputs))
    exporter = MarkdownExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    text, resources = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=cells), {"unique_key": "index", "output_files_dir": "nbs/images"})
    text = re.sub(r"^```\w*\n\s*```\n", "", text, flags=re.MULTILINE)                     # code that is not shown
    text = re.sub(r"^\s*!\[png\]\((\S+)\)\s*$", lambda picture: f"\n![{next(captions, 'figure')}]({picture[1]})\n", text, flags=re.MULTILINE)
    note = "<!-- Generated from nbs/index.ipynb by `make export`: edit that notebook, not this file. -->\n\n"
    return note + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", resources["outputs"] | picture_files(root)


if __name__ == "__main__":
    root = Path.cwd()
    text, pictures = readme(root)
    for old in (root/"nbs/images").glob("index_*"): old.unlink()
    for name, data in pictures.items():
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).write_bytes(data)
    (root/"README.md").write_text(text, encoding="utf-8")
