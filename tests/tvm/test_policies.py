"Views of a search."
from types import SimpleNamespace

import pytest

from tokenstudy.tvm.voting import accuracy_curves, draw_accuracy
from tokenstudy.tvm.policies import draw_search, search_text
from tvm.test_search import check_search
from tvm.toys import PROMPTS, sampled


def test_search_views():
    import matplotlib.pyplot as plt
    r = check_search(prompts=PROMPTS[:1])[0]
    text = search_text(r)
    assert len(text.splitlines()) == len(r.nodes) + 1 and text.count("* ") + text.count("*■") >= len(r.path(r.best)) and "·" in text
    tokenizer = SimpleNamespace(decode=lambda ids: "$<b>\n" * len(ids))
    fig = draw_search(r, tokenizer, "a tree")
    fig.canvas.draw()
    shown = [t.get_text() for t in fig.axes[0].texts]
    assert len(shown) == len(r.nodes) and all("\n" not in t for t in shown)
    rows = accuracy_curves([[sampled(a, "a") for a in "abab"]] * 3, dict(v=[[.5, .1, .2, .3]] * 3), (1, 2, 4))
    for against in ("N", "tokens"):
        ax = draw_accuracy(rows, against, [dict(label="beam", accuracy=.5, low=.4, high=.6, tokens=30, N=8)])
        ax.figure.canvas.draw()
        assert len(ax.lines) >= 5 and "beam" in [t.get_text() for t in ax.get_legend().get_texts()]
    with pytest.raises(ValueError, match="'N' or 'tokens'"): draw_accuracy(rows, "time")
    plt.close("all")
