"Graders that cannot hang, evaluate nothing, and run where the system limits nothing."
import builtins
import os
import sys
import threading
import time

import pytest

from tokenstudy import reasoning as r
from tokenstudy.reasoning import grading


HANGING = r"\boxed{2003^{2002^{2001}}}"

ADVERSARIAL = [  # text, right answer, correct
    (r"\boxed{0.05}", "5", False), (r"\boxed{500}", "5", False), (r"\boxed{5\%}", "5", True), (r"\boxed{1{,}234}", "1234", True),
    (r"\boxed{1,234.50}", "1234.5", True), (r"\boxed{12 \text{ cm}}", "12", True), ("#### 12 apples", "12", True), (r"\boxed{\frac{3}{4}", "3/4", False),
    (r"\boxed{}", "1", False), ("", "1", False), (r"\boxed{__import__('os').abort()}", "1", False), (r"\boxed{\boxed{7}}", "7", True), ("{{{{", "1", False),
    (r"\boxed{\sqrt{2}/2}", r"\frac{1}{\sqrt{2}}", True), (r"\boxed{x^2-1}", "(x-1)(x+1)", True), ("\\boxed{\x00\ud800}", "1", False), (r"\boxed{\infty}", "1", False)]


def test_grader_on_adversarial_answers():
    found = r.grade([t for t, *_ in ADVERSARIAL], [g for _, g, _ in ADVERSARIAL], timeout=2., workers=1)
    assert [g.correct for g in found] == [right for *_, right in ADVERSARIAL], [(t, g) for (t, _, right), g in zip(ADVERSARIAL, found) if g.correct != right]
    assert all(g.note for g in found if g.answer is None)


def test_grader_in_threads_with_hanging_answers():
    "Off the main thread, several at once, each with a question that would never end; the answers beside it are graded all the same."
    results = [None]*3
    def work(i): results[i] = r.grade([HANGING, rf"\boxed{{{i}/2}}", "none"], ["3", str(i/2), "1"], timeout=.3, workers=2)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads: t.start()
    for t in threads: t.join(600)
    assert [[g.correct for g in one] for one in results] == [[False, True, False]]*3
    assert {one[0].note for one in results} == {"timed out"}
    r.close_graders()


def test_grader_that_was_killed_is_replaced():
    assert r.grade(["x+1"], ["1+x"])[0]
    with grading._idle_lock: old = grading._idle[-1]
    old.process.kill(); old.process.wait()
    assert r.grade(["y+1"], ["1+y"])[0] and old not in grading._idle


@pytest.mark.skipif(sys.platform != "linux", reason="the system's signal of a pipe without readers")
def test_reported_a_busy_grader_ends_with_its_parent():
    "Even inside one long multiplication, which lets no other thread run."
    import subprocess
    import psutil
    code = f"from tokenstudy import reasoning\nprint('ready', flush=True)\nreasoning.grade([r'{HANGING}'], ['3'], timeout=600, workers=1)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    def busy(): return [p for p in psutil.Process(parent.pid).children() if sum(p.cpu_times()[:2]) > .5]
    for _ in range(600):
        if graders := busy(): break
        time.sleep(.1)
    used = sum(graders[0].cpu_times()[:2])
    for _ in range(600):                      # past its imports, in the question
        if sum(graders[0].cpu_times()[:2]) > used + 1: break
        time.sleep(.1)
    assert graders[0].is_running()
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(graders, timeout=20)[1] == []


def test_grader_never_evaluates(monkeypatch):
    "What a grading process does works where Python's eval is forbidden; math-verify as it comes does not."
    import sympy.core.numbers as numbers
    import sympy.parsing.sympy_parser as parser
    grading._equal("1", "2")
    def forbidden(*args, **kwargs): raise AssertionError("eval")
    for module, name in ((numbers, "sympify"), (parser, "eval_expr")): monkeypatch.setattr(module, name, getattr(module, name))   # restored at the end
    with monkeypatch.context() as m:
        m.setattr(builtins, "eval", forbidden)
        assert not grading._equal("3", "3.0")[0]                            # as it comes: the number is evaluated, which fails here
    grading._forbid_eval()
    monkeypatch.setattr(builtins, "eval", forbidden)
    for gold, answer, right in (("72", "72.0", True), ("1/2", "0.5", True), (r"\frac{1}{2}", "3/4", False), ("27", "3^3", True), (r"\{1,2\}", r"\{2, 1\}", True),
                                ("-1.5", r"-\frac{3}{2}", True), ("1/3", "0.333333", True), ("0.05", "5", False), (r"\sqrt{2}", "2^{1/2}", True),
                                ("x^2-1", "(x-1)(x+1)", True), ("x^3-1", "(x-1)(x+1)", False)):
        assert grading._equal(gold, answer)[0] == right, (gold, answer)
    import math_verify.parser
    with pytest.raises(ValueError, match="not evaluated"): math_verify.parser.parse_expr_cached("7+1/2")


def test_reported_grader_bad_input():
    for bad in ((["1"], ["1", "2"]), ("1", ["1"]), (["1"], [" "])):
        with pytest.raises(ValueError): r.grade(*bad)
    for timeout in (0, -1, float("inf"), 1e12, float("nan")):
        with pytest.raises(ValueError, match="timeout"): r.grade(["1"], ["1"], timeout=timeout)
    with pytest.raises(ValueError, match=r"golds\[1\] is None"): r.grade(["None", "None"], ["1", None])
    for bad, said in (([["1", None]], r"golds\[0\]\[1\] is None"), ([[]], r"golds\[0\] is empty"), ([{"a": 1}], "is dict")):
        with pytest.raises(ValueError, match=said): r.grade(["1"], bad)
    with pytest.raises(TypeError, match="text = 5"): r.grade([5], ["5"])
    found = r.grade([None, "4", "The answer is four.", "4"], ["4", ["5", "4"], ("4", "four"), 4])
    assert [(g.correct, g.note) for g in found] == [(False, "no answer"), (True, ""), (True, ""), (True, "")]
    long = "7"*5000
    assert [g.correct for g in r.grade(["#### 7", "#### -0", "#### 007", "#### -7"], [long, "0", "7", "7"])] == [False, True, True, False]
    with pytest.raises(ValueError): r.grade_arithmetic(["# 1"], [])
    assert [g.correct for g in r.grade_arithmetic(["1 + 1 = 2 . # 2", "# 0 2", "# 2 3", "2", "# 2 #"], ["2"]*5)] == [True, False, False, False, False]


HIDDEN = """
import signal, sys
sys.modules["resource"] = None                   # as on Windows: `import resource` fails
for name in ("setitimer", "ITIMER_PROF", "SIGPROF"): delattr(signal, name)
"""


def test_grader_without_the_systems_timers(tmp_path, monkeypatch):
    "Where there is neither `resource` nor `setitimer`, grading starts, grades, and the parent's own timer ends what hangs."
    (tmp_path/"sitecustomize.py").write_text(HIDDEN)
    r.close_graders()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    one = grading._Grader()
    try: assert not one.timed and one("1/2", "0.5", 2.) == [True, ""]
    finally: one.close()
    start = time.monotonic()
    found = r.grade([HANGING, r"\boxed{0.5}"], ["3", "1/2"], timeout=.5, workers=1)
    assert [g.correct for g in found] == [False, True] and found[0].note == "timed out"
    assert time.monotonic() - start < 60
    r.close_graders()


def test_grader_with_the_systems_timer_says_so():
    one = grading._Grader()
    try: assert one.timed == (grading._timer() is not None) and (sys.platform != "linux" or one.timed)
    finally: one.close()


TINY = [  # correct answer, answer, equal
    (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}", False), (r"\frac{1}{2^{98}}", r"2^{-98}", True), (r"\frac{1}{2004!}", r"\frac{1}{2006!}", False),
    ("0.0000001", "0.0000002", False), ("0.0000001", "1e-7", True), ("1e-7", r"10^{-7}", True), ("3^{200}", "3^{200}+1", False), ("2^{1000}", "2^{1001}", False),
    (r"\frac{\sqrt{2}}{10^{20}}", r"\frac{\sqrt{3}}{10^{20}}", False), (r"\frac{\sqrt{2}}{10^{20}}", r"\frac{2}{\sqrt{2} \cdot 10^{20}}", True),
    (r"(0.0000001, 1)", "(0.0000003, 1)", False), ("1/3", "0.333333", True), ("1/3", "0.33", False), ("1/300000", "0.000003", False), ("71/6", "11 5/6", True), ("2", "2 2/3", False),
    ("0.1", "1/10", True), ("123456789012345678901", "123456789012345678902", False), ("1e3", "1000", True), ("9"*300, "9"*299 + "8", False)]


def test_reported_tiny_and_huge_numbers_are_compared_exactly():
    found = r.grade([rf"\boxed{{{answer}}}" for _, answer, _ in TINY], [gold for gold, *_ in TINY])
    assert [g.correct for g in found] == [right for *_, right in TINY], [(case, g) for case, g in zip(TINY, found) if g.correct != case[2]]


def test_reported_a_gold_of_many_digits_is_its_own_answer():
    long = "7"*6000
    assert [g.correct for g in r.grade([rf"\boxed{{{long}}}", rf"\boxed{{{long}1}}"], [long, long])] == [True, False]


def test_equal_answers_are_one_group():
    forms = ["1/2", "0.5", r"\frac12", ".50", "2/4", "x+1", "1 + x", "1", None, "", " ", "1.0"]
    assert r.group_answers(forms) == [0, 0, 0, 0, 0, 1, 1, 2, None, None, None, 2]
    assert r.group_answers([1, 2, 1.0, (3,)]) == [0, 1, 0, 2] and r.group_answers([]) == []
    asked = []
    def same(a, b):
        asked.append((a, b))
        return a[0] == b[0]
    assert r.group_answers(["ab", "ac", "b", "ab"], same) == [0, 0, 1, 0] and asked == [("ab", "ac"), ("ab", "b")]        # equal texts are not asked about
    with pytest.raises(ValueError, match="timeout"): r.same_answer("1", "2", timeout=-1)
