"The mutants of `make mutants`: what is mutated, how equivalent ones are read, and a toy of which each mutant's fate is known."
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent/"mutants"
sys.path.insert(0, str(HERE))

from modules import EQUIVALENT, MODULES, PACKAGE, ROOT
from mutate import Key, mutants, read_equivalent, statements

TOY = '''"A toy."
import functools
import warnings
__all__ = ["least"]
LIMIT = 3

def least(a: int = 0, b: "int" = 1) -> "int":
    "The lower one, 1 of 2."
    if a > LIMIT: raise ValueError(f"a = {a + 1}: it is above {LIMIT}" + "!")
    if b > 9: warnings.warn("b is " + str(b), stacklevel=2)
    return a if a < b else b

class Box:
    @functools.lru_cache(maxsize=4)
    def twice(self, x): return 2 * x

check_module(globals(), dict(least=dict(a=at_least(0))))
'''


def changes(source, **options): return [(m.key.function, m.key.before, m.key.after) for m in mutants("toy", source, **options)]


def test_what_is_mutated():
    found = changes(TOY)
    assert ("LIMIT", "LIMIT = 3", "LIMIT = 4") in found and ("least", "return a if a < b else b", "return a if a <= b else b") in found
    assert ("Box.twice", "def twice(self, x): return 2 * x", "def twice(self, x): return 2 / x") in found
    assert len([f for f in found if "raise" in f[1]]) == 1 == len([f for f in found if f[2].startswith("if a >= LIMIT: raise")])
    assert {f[2].split(":")[0] for f in found if "warn" in f[1]} == {"if b >= 9", "if b > 10"}
    assert {f[2] for f in found if f[1].startswith("def least")} == {'def least(a: int = 1, b: "int" = 1) -> "int":', 'def least(a: int = 0, b: "int" = 2) -> "int":'}
    assert not any(word in f[1] for f in found for word in ("toy", "import", "__all__", "lower", "lru_cache", "check_module"))
    assert {f[0] for f in changes(TOY, without=("Box", "LIMIT"))} == {"least"} and changes("x: float = 1e300\n", without=()) == [("x", "x: float = 1e300", "x: float = None")]


def test_a_mutant_of_several_lines_shows_those_that_change():
    found = changes("def f(x):\n    y = g(x,\n          2)\n    return y\n")
    assert ("f", "2)", "3)") in found and ("f", "y = g(x,\n2)", "y = None") in found and ("f", "y = g(x,", "y = g(None,") in found
    made = {m.key.after: m for m in mutants("toy", "def f(x):\n    y = g(x,\n          2)\n    return y\n")}
    assert made["3)"].source == "def f(x):\n    y = g(x,\n          3)\n    return y\n" and [made[x].line for x in ("3)", "y = None")] == [3, 2]
    where = statements("if a:\n    b = (1 +\n         2)\nelse: c = 3\nfor i in x:\n    pass\n")
    assert [list(where[i]) for i in (1, 2, 3, 4, 5, 6)] == [[1], [2, 3], [2, 3], [4], [5], [6]]


def test_entries_of_equivalent_mutants(tmp_path):
    file = tmp_path/"equivalent.txt"
    file.write_text("# comment\n\na/b :: f\n- x = 1\n+ x = 2\n- y - 1\n- z\n+ y + 1\n= the same reason\n\na/b :: g.h\n- gone\n= it was not needed\n", encoding="utf-8")
    assert read_equivalent(file) == {Key("a/b", "f", "x = 1", "x = 2"): "the same reason", Key("a/b", "f", "y - 1\nz", "y + 1"): "the same reason", Key("a/b", "g.h", "gone", ""): "it was not needed"}
    for bad, message in (("a :: f\n- x\n+ y\n", "has no reason"), ("a :: f\n= why\n", "line 2: a reason without"), ("what\n", "line 1: 'what' is neither")):
        file.write_text(bad, encoding="utf-8")
        with pytest.raises(ValueError, match=message): read_equivalent(file)


def test_the_listed_lines_are_there():
    "An entry whose line has changed says nothing any more. (Whether it survives, `make mutants` sees.)"
    listed = read_equivalent(EQUIVALENT)
    assert {key.module for key in listed} <= set(MODULES) and all(len(reason) > 10 for reason in listed.values())
    for name, module in MODULES.items():
        lines = {line.strip() for line in (ROOT/PACKAGE/f"{name}.py").read_text(encoding="utf-8").splitlines()}
        gone = [str(key) for key in listed if key.module == name and not lines >= set(key.before.splitlines())]
        assert not gone, "these lines of equivalent.txt have changed:\n" + "\n".join(gone)
        for test in module.tests: assert (ROOT/test.split("::")[0]).is_file()


COUNTER = '''
LIMIT = 3

def count(n, least=0):
    "Down to `least`, in steps."
    steps = 0
    while n > least:
        n -= 1
        steps += 1
    if steps > LIMIT: raise ValueError("too many steps")
    return steps

def sign(x):
    return -1 if x < 0 else 1

def unasked(x): return x + 1
'''
TESTS = '''
import pytest
from toy.counter import count, sign

def test_count():
    assert count(2) == 2 and count(0) == 0 and count(2, 1) == 1
    with pytest.raises(ValueError): count(9)

@pytest.mark.parametrize("x", [-2, 3])
def test_sign(x): assert sign(x) * x > 0
'''
RUN = '''
import sys
from pathlib import Path
sys.path[:0] = [{here!r}, {root!r}]
import modules, run
run.ROOT, run.PACKAGE, run.EQUIVALENT = Path({root!r}), "toy", Path({root!r})/"equivalent.txt"
run.MODULES = dict(counter=modules.Module(("test_counter.py",)))
sys.exit(run.main(sys.argv[1:]))
'''
SURVIVORS = {"LIMIT = 4", "if steps >= LIMIT: raise ValueError(\"too many steps\")", "return -1 if x <= 0 else 1", "return -1 if x < 1 else 1", "return -2 if x < 0 else 1",
             "return -1 if x < 0 else 2", "def unasked(x): return x - 1", "def unasked(x): return x + 2"}


def test_a_survivor_of_a_toy_is_found_and_the_rest_is_killed(tmp_path):
    "A loop without end and constants read at import among them."
    (tmp_path/"toy").mkdir()
    for name, text in (("toy/__init__.py", ""), ("toy/counter.py", COUNTER), ("test_counter.py", TESTS), ("go.py", textwrap.dedent(RUN).format(here=str(HERE), root=str(tmp_path)))):
        (tmp_path/name).write_text(text, encoding="utf-8")
    entry = "counter :: sign\n- return -1 if x < 0 else 1\n+ return -1 if x <= 0 else 1\n= for the sake of the test\n"
    (tmp_path/"equivalent.txt").write_text(entry + "\ncounter :: sign\n- return 7\n+ return 8\n= it was so once\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "go.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    blocks = done.stdout.split("\n\n")
    told = {block.splitlines()[-1].strip()[2:] for block in blocks if block.startswith("counter :: ")}
    assert told == SURVIVORS - {"return -1 if x <= 0 else 1"}, done.stdout + done.stderr
    assert [b for b in blocks if b.startswith("This entry of equivalent.txt")] == ["This entry of equivalent.txt belongs to no surviving mutant; take it out:\ncounter :: sign\n    - return 7\n    + return 8"]
    made = len(list(mutants("counter", COUNTER)))
    row = next(line for line in done.stdout.splitlines() if line.startswith("counter   ")).split()
    assert row[1:] == [str(made), str(made - len(SURVIVORS)), "1", "7", f"{100 * (made - 8) / (made - 1):.1f}", "%"] and done.returncode == 1
    one = subprocess.run([sys.executable, "go.py", "counter", "count"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "if steps >= LIMIT" in one.stdout and "sign" not in one.stdout and one.returncode == 1
