"""Every public callable names the argument that it cannot use: a table of wrong types, shapes, ranges, NaN and empties for each of them.

`sweep.py` finds the callables, takes a valid call of each from its docstring's example and replaces one argument after the other;
`bad_arguments/<area>.py` has the calls that no example shows and what is legal all the same."""
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import sweep

TABLES = {name: sweep.area(name) for name in sweep.AREAS}
CASES = [pytest.param(label, marks=pytest.mark.xfail(strict=True, reason=TABLES[label.split(".")[0]].FAULTS[label]))
         if label in TABLES[label.split(".")[0]].FAULTS else label for label in sweep.rows()]


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A folder that is a project of its own, with the committed records; what a call writes goes there."
    for part in ("settings.ini", "results", "docs", "nbs"): (tmp_path/part).symlink_to(sweep.ROOT/part)
    (tmp_path/"folder").mkdir()
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)           # an example may set a home of its own
    yield
    os.environ.clear()
    os.environ.update(environment)
    assert files_of_the_package() == FILES, "a call has written among the package's own files"


def files_of_the_package() -> dict: return {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in (sweep.ROOT/"tokenstudy"/"assets").iterdir()}


FILES = files_of_the_package()


@pytest.mark.parametrize("label", CASES)
def test_bad_arguments(label, project, tmp_path, monkeypatch):
    row = sweep.rows()[label]
    if label in sweep.WRITERS:
        shutil.copytree(sweep.ROOT/"tokenstudy"/"assets", tmp_path/"assets")
        for place in ("core.files", "core"): monkeypatch.setattr(f"tokenstudy.{place}.assets_dir", lambda: tmp_path/"assets")
    assert sweep.judge(row, TABLES[label.split(".")[0]]) == []


def test_every_entry_of_the_tables_of_bad_arguments_belongs_to_a_public_callable():
    known = sweep.rows().keys()
    for name, table in TABLES.items():
        named = {*table.SEEN, *table.SAME, *table.ANY, *table.LONG, *table.LEGAL, *table.FAULTS}
        assert sorted(named - known) == [], name


# The sweep finds faults that are put in on purpose

SPECIMEN = '''
__all__ = ["careful", "careless", "slow", "lost", "Kept", "unseen"]
def careful(n: int):
    """Half.

    >>> careful(4)
    2.0
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 0 < n < 1000: raise ValueError(f"n = {n!r}: it must be a whole number from 1 to 999")
    return n/2
def careless(n: int):
    """Half.

    >>> careless(4)
    2.0
    """
    if n is None: raise ValueError("not this one")
    return [1., 2., 3., 4., 5.][n]/2 if n != -1 else float("nan")
def slow(n: int):
    """Counts.

    >>> slow(2)
    """
    while n: n = n - 1 if n == int(n) > 0 else n
def lost(path: str):
    """Reads.

    >>> lost("settings.ini")
    """
    return open(path).read(1)
class Kept:
    """Holds.

    >>> Kept(1).twice(2)
    4
    """
    def __init__(self, x: int): self.x = x
    def twice(self, y: int): return {2: 4}[y]
def unseen(n: int): return n
'''


@pytest.fixture
def specimen(monkeypatch, project):
    made = ModuleType("tokenstudy.specimen")
    exec(compile(SPECIMEN, str(sweep.ROOT/"tokenstudy"/"specimen.py"), "exec"), vars(made))
    for name in made.__all__: vars(made)[name].__module__ = made.__name__
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setitem(sweep.MODULES, made.__name__, sweep.Module("tokenstudy/specimen.py", SPECIMEN))
    monkeypatch.setattr(sweep, "PATIENCE", .2)
    rows = {row.label: row for row in sweep.callables(made)}
    def faults(label, **table):
        empty = dict(SEEN={}, SAME={}, ANY=set(), LONG=set(), LEGAL={}, FAULTS={}, NEVER={})
        return sweep.judge(rows[f"specimen.{label}"], SimpleNamespace(**empty | table))
    return faults


def test_a_function_that_refuses_bad_arguments_has_no_faults(specimen):
    assert specimen("careful") == []


@pytest.mark.parametrize("label, end", [
    ("careless(n=None)", "unnamed ValueError"), ("careless(n=1.5)", "unnamed TypeError"), ("careless(n=huge)", "raw IndexError"),
    ("careless(n=-1)", "gives not-a-number"), ("careless(n=0)", "taken"), ("slow(n=1.5)", "hangs"), ("lost(path=bytes)", "raw FileNotFoundError"),
    ("Kept.twice(y=0)", "raw KeyError"), ("Kept(x=text)", "taken")])
def test_injected_faults_of_bad_arguments_are_found(specimen, label, end):
    found = specimen(label.partition("(")[0])
    assert [f for f in found if f.startswith(f"specimen.{label}: {end}")], found


def test_a_callable_without_a_call_is_a_fault_of_the_table_of_bad_arguments(specimen):
    with pytest.raises(LookupError, match="no example"): specimen("unseen")
    assert specimen("unseen", SEEN={"specimen.unseen": ("specimen", "unseen(1)")}) != []


def test_what_is_announced_as_legal_must_be_taken_in_bad_arguments(specimen):
    found = specimen("careful", LEGAL={"specimen.careful": {"n": "0"}})
    assert found == ["specimen.careful(n=0): announced as legal, but it is not taken"]
