"core.results: the asked records and no others, and a mark on what other code made."
import pytest

from tokenstudy import core
from tokenstudy.core import records
from tokenstudy.core.results import Committed, committed, fitting_records


def unit(): return dict(x=1)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("TOKENSTUDY_SCALE", "laptop")
    runs = core.Runs("demo/toy")
    for K in (1, 2):
        for seed in (0, 1, 2): runs(dict(K=K, seed=seed), unit)
    return runs


def test_fitting_records(runs):
    assert fitting_records("demo/toy") == [] and len(fitting_records("demo/toy", runs=runs)) == 6
    runs.publish()
    assert len(fitting_records("demo/toy", dict(K=2))) == 3 and len(fitting_records("demo/toy", lambda c: c["seed"] > 0)) == 4
    assert fitting_records("demo/toy", dict(K=2, absent=None)) == []
    runs(dict(K=2, seed=3), unit)
    assert len(fitting_records("demo/toy", dict(K=2))) == 3 and len(fitting_records("demo/toy", dict(K=2), runs)) == 4
    assert len(fitting_records("demo/toy", dict(K=1), runs)) == 3


def test_tables_say_where_they_come_from(runs):
    runs.publish()
    shown = committed("demo/toy", lambda K, some: dict(K=K, seeds=len(some)), group=lambda c: c["K"], caption="Two")
    assert shown.cells == [["1", "3"], ["2", "3"]] and shown.columns == ["K", "seeds"] and shown.caption == "Two"
    assert "6 records, 3 seeds, revision" in shown.note and "†" not in shown.note
    assert [len(some) for some in shown.records] == [3, 3]
    assert committed("demo/toy", lambda r: r["config"], dict(K=1, seed=2)).cells == [["1", "2"]]
    with pytest.raises(core.TokenStudyError, match="demo/toy: no committed record fits"): committed("demo/toy", dict, dict(K=3))


def test_other_code_is_marked_by_row(runs, monkeypatch, recwarn):
    runs.publish()
    def changed(record): return record["config"] == dict(K=2, seed=1)
    monkeypatch.setattr("tokenstudy.core.results.made_by_other_code", changed)
    shown = committed("demo/toy", lambda K, some: dict(K=K), group=lambda c: c["K"])
    assert shown.columns == ["K", "†"] and shown.cells == [["1", ""], ["2", "†"]] and "† 1 of 2 rows" in shown.note
    assert "†" in shown._repr_html_() and "†" in shown._repr_markdown_() and "†" in repr(shown)
    assert not [w for w in recwarn if "other code" in str(w.message)]


def test_records_of_before_are_marked_and_a_changed_library_too(runs, monkeypatch):
    plainly = runs.records()
    old = [r | dict(provenance={k: v for k, v in r["provenance"].items() if k != "code"}) for r in plainly]
    assert Committed([{"a": 1}], [old]).cells == [["1", "†"]] and Committed([{"a": 1}], [plainly]).columns == ["a"]
    monkeypatch.setattr(records, "code_fingerprint", lambda *things: "another")
    assert Committed([{"a": 1}], [plainly]).cells == [["1", "†"]]


def test_committed_measurements_are_shown():
    for study in ("tvm/bench", "cdpo/bench", "brat/bench", "multidraft/bench", "multidraft/decoding_bench"):
        shown = core.committed_bench(study)
        assert len(shown) == len(core.published(study, "laptop")) > 0
        assert shown[0].caption.startswith("† ") and "revision" in shown[0].caption and "against" in repr(shown)
