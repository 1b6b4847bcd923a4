"core.bench: races and rows."
import json
import sys

import numpy as np
import pytest

from tokenstudy import core
from tokenstudy.app.commands import bench_line
from tokenstudy.core import bench


def test_races_take_turns():
    calls = []
    core.race(lambda: calls.append("ours"), lambda: calls.append("peer"), runs=3, warmup=2)
    assert calls == ["ours", "peer"]*5


def test_bench_row_has_exactly_these_keys():
    row = core.bench_row("r", np.float64(2), 6, "them", "ms", goal=2)
    assert list(row) == ["name", "ours", "peer", "peer_name", "unit", "ratio", "goal", "runs", "device"]
    assert row["ratio"] == 3 and core.bench_row("r", 2, 6, "them", "1/s", lower_is_better=False)["ratio"] == pytest.approx(1/3)
    json.dumps(row)


def test_all_take_turns():
    calls = []
    found = core.race_all({name: lambda name=name: calls.append(name) for name in "abc"}, 2, 1)
    assert calls == list("abc")*3 and list(found) == list("abc") and all(t >= 0 for t in found.values())
    with pytest.raises(ValueError, match="runs = 0"): core.race_all(dict(a=lambda: 1), 0)


def test_medians_not_means(monkeypatch):
    from tokenstudy.core import bench
    times = iter([0, 1, 1, 3, 3, 103])                         # 1, 2 and 100 seconds
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(times))
    assert core.race_all(dict(a=lambda: None), 3, 0) == dict(a=2)


def hold(monkeypatch, folder):
    "The greatest memory of a process that held 200 MB for a moment."
    (folder/"holder.py").write_text("from tokenstudy.core import peak_memory\ndef hold():\n    x = b'x'*200_000_000\n    del x\n    return peak_memory()")
    monkeypatch.setenv("PYTHONPATH", f"{folder}{__import__('os').pathsep}{__import__('os').environ.get('PYTHONPATH', '')}")
    return core.alone("holder:hold")

def test_alone_is_alone_and_tells_errors(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert core.alone("os:getpid") != __import__("os").getpid()
    assert core.alone("os:getenv", "OMP_NUM_THREADS") == "1" and core.alone("os:getenv", "OMP_NUM_THREADS", threads=3) == "3"
    assert core.alone("builtins:print", "noise on stdout") is None
    with pytest.raises(core.TokenStudyError, match="math:sqrt.* failed: .*domain"): core.alone("math:sqrt", -1)
    before, big = core.alone("tokenstudy.core.bench:peak_memory"), hold(monkeypatch, tmp_path)
    assert 150e6 < big - before < 400e6


def test_one_bench_that_cannot_be_measured_does_not_stop_the_rest(monkeypatch):
    import sys, types
    row = core.bench_row("r", 1, 2, "them", "s")
    good, bad, bug = (types.ModuleType(n) for n in ("good", "bad", "bug"))
    def fails(): yield row; raise core.MissingModelError("no model")
    def breaks(): raise ZeroDivisionError
    good.rows, bad.rows, bug.rows = (lambda: [row]), fails, breaks
    for m in (good, bad, bug): monkeypatch.setitem(sys.modules, m.__name__, m)
    found = list(core.measure(dict(one="bad", two="good")))
    assert [n for n, _ in found] == ["one", "one", "two"] and isinstance(found[1][1], core.MissingModelError)
    assert list(core.measure(dict(one="bad", two="good"), ["two"])) == [("two", row)]
    with pytest.raises(ZeroDivisionError): list(core.measure(dict(b="bug")))       # a mistake is not hidden


class Card:
    "A card whose clock goes on by a second for each call, and whose memory is told."
    def __init__(self): self.now, self.asked, self.held = 0., [], 0
    def Event(self, enable_timing):
        assert enable_timing
        return Event(self)
    def synchronize(self): self.asked.append("synchronize")
    def reset_peak_memory_stats(self): self.held = 0
    def max_memory_allocated(self): return self.held


class Event:
    def __init__(self, card): self.card, self.at = card, None
    def record(self): self.at = self.card.now
    def synchronize(self): self.card.asked.append("event")
    def elapsed_time(self, other): return 1000*(other.at - self.at)


def test_a_card_times_by_its_events_and_tells_its_memory(monkeypatch):
    card = Card()
    monkeypatch.setattr(bench, "_card", lambda: card)
    def step(seconds):
        card.now += seconds
        card.held = max(card.held, int(1e9*seconds))
    assert bench.race(lambda: step(2), lambda: step(3), 3, warmup=1) == (2, 3) and card.asked.count("event") == 8
    def rows():
        for name, seconds in (("large", 5), ("small", 1)):
            step(seconds)
            yield bench.bench_row(name, 1, 2, "it", "s")
    module = type(sys)("rows_of_a_card")
    module.rows = rows
    monkeypatch.setitem(sys.modules, "rows_of_a_card", module)
    found = [row for _, row in bench.measure({"toy": "rows_of_a_card"})]
    assert [r["memory"] for r in found] == [5*10**9, 10**9]
    assert "5.00 GB of the card" in bench_line(found[0]) and "memory" not in bench.bench_row("a", 1, 2, "it", "s")
