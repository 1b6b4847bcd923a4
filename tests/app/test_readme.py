"README: its first screen, its numbers, its links and pictures, and its Python blocks, which run as they stand."
import re
import runpy
import sys

import pytest

from conftest import ROOT
from tokenstudy.app import charts, claims, speed

TEXT = (ROOT/"README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def missing(text: str) -> list:
    "What the first 60 lines of a README lack."
    first = "\n".join(text.splitlines()[:60])
    needed = {f"arXiv {paper['arxiv']}": f"(https://arxiv.org/abs/{paper['arxiv']})" for paper in claims.ARTICLES.values()}
    needed |= {"install": "pip install", "study": "make study", "test": "make test", "picture": "cover-light.svg",
               "example": "custom_generate=decode"}
    return [name for name, part in needed.items() if part not in first]


def slips(text: str) -> list:
    "What no README of ours may say."
    return re.findall(r"np\.float64|\d\.\d{6,}|[Tt]o come\b|\bPlainly\b|half of (?:that|the gain)|\bvs\\?_", text)


def broken(text: str, root) -> list:
    "Relative links and pictures that lead nowhere."
    found = re.findall(r"\]\(([^)#\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    return sorted({link for link in found if not re.match(r"\w+:", link) and not (root/link).is_file()})


def test_first_screen():
    assert missing(TEXT) == []
    assert missing(TEXT.replace("2411.19943", "2411")) == ["arXiv 2411.19943"]
    assert missing("\n"*30 + TEXT) == ["example"]


def test_no_slips():
    assert slips(TEXT) == []
    assert len(slips("np.float64(0.7), 0.12345678 and more is to come")) == 3


def test_links_and_pictures_are_there():
    assert broken(TEXT, ROOT) == []
    assert broken("[a](nbs/none.ipynb) [b](https://x.org)", ROOT) == ["nbs/none.ipynb"]


def test_table_is_computed_from_the_records():
    sys.path.insert(0, str(ROOT/"docs"))
    try: module = runpy.run_path(str(ROOT/"docs/readme.py"))
    finally: sys.path.remove(str(ROOT/"docs"))
    table = claims.Verdicts(claims.headlines())._repr_markdown_()
    assert module["LINK"].sub(module["moved"], table) in TEXT, "the table of README.md is not what results/ gives: run nbs/index.ipynb, make export"


def test_pictures_are_drawn_from_the_records():
    for name, data in charts.picture_files().items(): assert (ROOT/name).read_bytes() == data, f"{name}: make export"


def test_speed_is_told_of_both_machines():
    rows = [line for line in speed.Speed()._repr_markdown_().splitlines() if re.match(r"\| [01] ", line)]
    assert len(rows) == 2 and all(row in TEXT for row in rows)
    assert "No speed-up is claimed until it holds on every machine tried." in TEXT
    assert all(f"{100*speed.packing_share(t):.0f} % (temperature {t})" in TEXT for t in (0, 1))


def test_numbers_in_sentences():
    units = claims.rollout_results()
    saved = sum(u["full"]["tokens"] for u in units)/sum(u["sequential"]["tokens"] for u in units)
    assert 11 <= saved < 12 and "eleven times fewer rollout tokens" in TEXT


def test_there_are_blocks(): assert len(BLOCKS) >= 1


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number, capsys, tmp_path, monkeypatch):
    from tokenstudy import lm
    monkeypatch.chdir(tmp_path)      # what a block writes must not stay
    assert len([line for line in BLOCKS[number].splitlines() if line.strip()]) <= 8
    if "load_lm" in BLOCKS[number] and lm.lm_status()[0]["state"] in ("missing", "corrupt"): pytest.skip("SmolLM2 is not installed")
    names = {}
    exec(BLOCKS[number], names)
    if "custom_generate" in BLOCKS[number]:
        assert names["decode"].last.block_efficiency > 1
        assert re.search(r"\d\.\d+\s*$", capsys.readouterr().out)
