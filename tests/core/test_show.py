"show: whatever a token holds is shown and never obeyed, and every number reaches the table."
import html
import json
import os
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, strategies as st

from conftest import named
from tokenstudy.core import show

EVIL = ["<script>document.title='obeyed'</script>", "</span></div>", "\"><img src=x onerror=\"document.title='obeyed'\">", "' onmouseover='x", "&lt;", "&#60;",
        "\x00", "\x1b[31m", "\x7f", "\u200b", "\u202e", "\u2066", "\ud800", "\udc00", "\U000e0041", "\ufeff", "\u2028", "", "\n", "\r\n", " ", "\t", "$x$", "{{ 7*7 }}", "]]>", "<!--"]
anything = st.text(st.characters(), max_size=8)


class Page(HTMLParser):
    "The tags, attributes and text of a piece of HTML; fails on a tag that is never closed."
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.titles, self.open = set(), set(), [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.titles += [value for name, value in attributes if name == "title"]
        if tag not in ("br", "wbr"): self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag
    def handle_data(self, data): self.text.append(data)
    def handle_comment(self, data): pytest.fail("a comment")
    def handle_decl(self, data): pytest.fail("a declaration")


# ---- token strips

@given(st.lists(anything | st.sampled_from(EVIL), max_size=8), anything, anything, st.data())
def test_strip_is_static_html_whatever_it_holds(tokens, label, title, data):
    values = data.draw(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=len(tokens), max_size=len(tokens)))
    marker = data.draw(st.lists(st.integers(0, len(tokens) - 1), max_size=2)) if tokens else None
    strip = show.token_strip(tokens, values, marker=marker, label=label, title=title)
    page = Page(strip._repr_html_())
    assert page.tags <= {"div", "span", "br", "wbr"}
    assert page.attributes <= {"class", "style", "title", "dir"}
    assert [t for t in page.text if t][bool(title):][:len(tokens)] == [show.visible(t) for t in tokens]
    assert len(page.titles) == len(tokens)
    strip._repr_html_().encode(), repr(strip).encode()
    assert repr(strip).count("\n") == 1 + bool(title)


def test_values_are_in_titles_and_text():
    strip = show.token_strip(["a", " b", "c"], [.123456, 2, np.nan], marker=1, label="surprise", title="T")
    assert Page(strip._repr_html_()).titles == ["0: a, surprise 0.12346", "1:  b, surprise 2", "2: c, surprise –"]
    assert repr(strip) == "T\na[0.123] » b[2]« c[–]\n(surprise: 0.123 to 2)"


def test_newline_token_breaks_the_line():
    assert show.token_strip(["a", "\n", "b\n"], [1, 2, 3])._repr_html_().count("<br>") == 2
    assert "⏎" in repr(show.token_strip(["\n"], [1]))


def test_spaces_are_kept():
    text = show.token_strip(["  two", " "], [1, 2])._repr_html_()
    assert "white-space:pre-wrap" in text and ">  two<" in text and "> <" in text


@pytest.mark.parametrize("values, low, high, shades", [
    ([0, 5, 10], None, None, [0, .5, 1]), ([3, 3, 3], None, None, [.5]*3), ([-1, 5, 20], 0, 10, [0, .5, 1]), ([-np.inf, 0, np.inf], -1, 1, [0, .5, 1]), ([1, 1, 1], 0, 1, [1]*3)])
def test_shades_run_from_low_to_high(values, low, high, shades):
    strip = show.token_strip("abc", values, low=low, high=high)
    assert [strip._shade(v) for v in values] == shades


def test_nan_is_grey_and_in_the_legend():
    text = show.token_strip("ab", [1, np.nan])._repr_html_()
    assert "no value" in text and "nan" not in text
    assert "no value" not in show.token_strip("ab", [1, 2])._repr_html_()
    assert "–" in show.token_strip("ab", [np.nan, np.nan])._repr_html_()


def test_values_may_be_tensors_and_arrays():
    import torch
    made = [repr(show.token_strip("ab", v)) for v in ([1, .5], np.float32([1, .5]), torch.tensor([1, .5], dtype=torch.bfloat16), torch.tensor([1, .5], requires_grad=True), (1, .5))]
    assert len(set(made)) == 1


@pytest.mark.parametrize("make, message", [
    (lambda: show.token_strip("abc", [1, 2]), "3 tokens need as many values"),
    (lambda: show.token_strip("abc", [[1, 2, 3]]), "shape"),
    (lambda: show.token_strip([b"a"], [1]), "must be strings"),
    (lambda: show.token_strip("abc", [1, 2, 3], marker=3), "marker 3 is outside"),
    (lambda: show.token_strip("abc", [1, 2, 3], marker=[0, -1]), "marker -1 is outside"),
    (lambda: show.token_strip([], [], marker=0), "marker 0"),
    (lambda: show.token_strip("abc", [1, 2, 3], low=4), "above high"),
    (lambda: show.token_strip("a", ["x"]), "could not convert"),
])
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message): make()


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_browser_obeys_no_token(tmp_path):
    strip = show.token_strip(EVIL, range(len(EVIL)), label=EVIL[0], title=EVIL[2])
    rows = show.table([{e: e for e in EVIL}], caption=EVIL[0])
    (tmp_path/"page.html").write_text(f"<!doctype html><meta charset=utf-8><title>untouched</title>{strip._repr_html_()}{rows._repr_html_()}")
    done = subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path/'profile'}", "--virtual-time-budget=500", "--dump-dom", f"file://{tmp_path/'page.html'}"],
                          capture_output=True, text=True, timeout=60)
    assert "<title>untouched</title>" in done.stdout
    assert html.escape(EVIL[0], quote=False) in done.stdout


# ---- visible text

@given(anything)
def test_visible_text_is_one_encodable_line(text):
    shown = show.visible(text)
    shown.encode()
    assert shown and len(shown.splitlines()) == 1
    assert show.visible(shown) == shown


BLANK = "\u115f\u1160\u2800\u3164\uffa0"

@given(st.text(st.one_of(st.just(" "), st.characters(categories=["L", "N", "P", "S"], exclude_characters=BLANK)), min_size=1))
def test_ordinary_text_is_left_alone(text): assert show.visible(text) == text


@pytest.mark.parametrize("blank", [*BLANK, "\xa0", "\u2003", "\u3000", "\u200b", "\u2060", "\ufeff", "\xad", "\u034f", "\ufe0f", "\ufe00", "\u180b", "\U000e0100", "\U000e0041"])
def test_reported_blanks_are_named(blank):
    assert show.visible(f"a{blank}b") == f"a⟨{ord(blank):04X}⟩b" and show.visible(blank) == f"⟨{ord(blank):04X}⟩"
    assert f"⟨{ord(blank):04X}⟩" in show.token_strip([blank, "b"], [0, 1])._repr_html_()


def test_reported_markers_may_be_a_mask():
    mask = np.array([False, False, True])
    for marker in (mask, mask.tolist(), 2, [2], {2}, np.int64(2)):
        assert show.token_strip("abc", [1, 2, 3], marker).marked == {2}
    assert show.token_strip("abc", [1, 2, 3], np.array([1., 2., 3.]) < 0).marked == set()
    with pytest.raises(ValueError, match="2 booleans for 3 tokens"): show.token_strip("abc", [1, 2, 3], [True, False])


def test_several_tables_show_below_each_other():
    some = show.Tables([show.table([dict(a=1)]), show.table([dict(b=2)], "Second")])
    assert repr(some).split("\n\n")[1].startswith("Second") and some._repr_html_().count("<table") == 2
    assert "no tables" in repr(show.Tables()) and "no tables" in show.Tables()._repr_html_() and "no tables" in show.Tables()._repr_markdown_()


# ---- tables

@given(st.lists(st.dictionaries(anything.filter(bool), anything | st.integers() | st.floats() | st.none(), min_size=1, max_size=3), min_size=1, max_size=3), anything)
def test_tables_are_static_whatever_they_hold(rows, caption):
    made = show.table(rows, caption=caption)
    page = Page(made._repr_html_())
    assert page.tags <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert page.attributes <= {"class", "style"}
    lines = made._repr_markdown_().splitlines()
    assert len(lines) == len(rows) + 2 + 2*bool(made.caption)
    bars = {line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines if line.startswith("|")}
    assert bars == {len(made.columns) + 1}
    repr(made).encode(), made._repr_html_().encode(), made._repr_markdown_().encode()


def test_markdown_means_what_it_says():
    from markdown_it import MarkdownIt
    cells = ["a|b", "*x*", "<b>", "`c`", "$x$", "[l](u)", "\\", "_i_", "# h", "&amp;", "https://example.org", "![i](u)"]
    rendered = Page(MarkdownIt("commonmark").enable("table").render(show.table([dict(cell=c) for c in cells])._repr_markdown_()))
    assert rendered.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert [t for t in rendered.text if t.strip()] == ["cell", *cells]


def test_text_table_is_aligned():
    made = show.table([dict(name="x", value=1.5), dict(name="日本", value=10), dict(name="long one", extra="y")], caption="C")
    assert repr(made).splitlines() == ["C", "name      value  extra", "────────  ─────  ─────", "x           1.5", "日本         10", "long one         y"]


def test_empty_table_is_refused():
    with pytest.raises(ValueError, match="at least one row"): show.table([])


# ---- against the paper

ROW = dict(quantity="acceptance", paper=.8, ours=.81)


def test_paper_table_shows_only_used_columns():
    assert show.against_paper([ROW]).columns == ["quantity", "paper", "ours"]
    full = show.against_paper([ROW | dict(low=.8, high=.82, peer=.7, peer_name="HF", seeds=3, n=100, differs="model"), ROW])
    assert full.columns == ["quantity", "paper", "ours", "interval", "baseline", "seeds", "n", "what differs"]
    assert full.cells[0] == ["acceptance", "0.8", "0.81", "0.8 – 0.82", "0.7 (HF)", "3", "100", "model"]
    assert full.cells[1][3:] == ["", "", "–", "–", ""]
    assert show.against_paper([ROW | dict(paper=None)]).cells[0][1] == "–"
    assert show.against_paper([ROW | dict(paper="2.3×")]).cells[0][1] == "2.3×"


def test_paper_table_is_kept_with_its_provenance(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_HOME", str(tmp_path))
    made = show.against_paper([ROW | dict(ours=np.float32(.5), n=np.int64(7))], study="multidraft/optimal", note="A note.")
    kept = json.loads((tmp_path/"runs"/"smoke"/"tables"/"multidraft+optimal.json").read_text())
    assert kept["study"] == "multidraft/optimal" and kept["rows"][0]["ours"] == .5 and "versions" in kept["provenance"]
    assert repr(show.PaperTable(kept["rows"], kept["note"])) == repr(made)
    show.against_paper([ROW])
    assert len(list((tmp_path/"runs").rglob("*.json"))) == 1


def test_reported_tables_of_studies_of_similar_names_are_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_HOME", str(tmp_path))
    for i, name in enumerate(("tvm/labels-b", "tvm-labels/b", "tvm/labels/b", "tvm-labels-b")): show.against_paper([ROW | dict(n=i)], study=name)
    from tokenstudy.app.report import paper_tables
    assert {study: table.rows[0]["n"] for study, table in paper_tables()[0]} == {"tvm/labels-b": 0, "tvm-labels/b": 1, "tvm/labels/b": 2, "tvm-labels-b": 3}
    folder = tmp_path/"runs"/"smoke"/"tables"
    (folder/"tvm-labels.json").write_text((folder/"tvm+labels+b.json").read_text())         # as an earlier version named it
    os.utime(folder/"tvm-labels.json", (0, 0))
    assert len(paper_tables()[0]) == 4
    before = len(list(tmp_path.rglob("*")))
    for bad in ("../../x", "/tmp/x", "a//b", "", "..", 3):
        with pytest.raises(ValueError, match="a study is named like|study = 3: it must be a text"): show.against_paper([ROW], study=bad)
    assert len(list(tmp_path.rglob("*"))) == before


@pytest.mark.parametrize("row, message", [
    (dict(paper=1), "no quantity"), (dict(quantity="x"), "no ours"), (ROW | dict(papper=1), "unknown entry 'papper'"), (ROW | dict(low=1), "half an interval"),
    (ROW | dict(ours=float("nan")), r"rows\[0\]\['ours'\] is nan")], ids=named)
def test_bad_rows_are_refused(row, message):
    with pytest.raises(ValueError, match=message): show.against_paper([row])


# ---- figures

def test_drawing_errors_are_errors():
    import matplotlib.pyplot as plt
    fig, ax = show.figure()
    ax.set_title(r"$\frac{1}{$")
    with pytest.raises(ValueError): show.finish(fig)
    assert not plt.fignum_exists(fig.number)


def test_style_is_undone_after_a_block():
    import matplotlib
    before = dict(matplotlib.rcParams)
    with show.style(): assert matplotlib.rcParams["axes.spines.top"] is False
    assert dict(matplotlib.rcParams) == before


def test_figures_have_the_asked_shape():
    import matplotlib.pyplot as plt
    fig, axes = show.figure(2, 2, height=4, width=6, sharex=True)
    assert axes.shape == (2, 2) and tuple(fig.get_size_inches()) == (6, 4)
    assert show.finish(fig) is fig
    plt.close(fig)


def test_scheme_colours_differ():
    schemes = [v for k, v in show.COLOURS.items() if k[0].isupper()]
    assert len(set(schemes)) == len(schemes) == 6
