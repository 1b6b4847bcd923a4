"Problems with a known first mistake, graders that cannot hang, trajectories that survive, the trie, the embedded generator."
import builtins
import dataclasses
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections import Counter
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstudy import core, reasoning as r
from tokenstudy.reasoning import grading
from tokenstudy.reasoning import trie as trie_

DATA = Path(os.environ.get("TOKENSTUDY_DATA") or Path(__file__).resolve().parents[2]/"shared"/"data")
needs_data = pytest.mark.skipif(not (DATA/"gsm8k"/"train.jsonl").is_file(),
                                reason=f"no GSM8K and MATH-500 in {DATA}; name their folder in TOKENSTUDY_DATA")

problem = st.builds(lambda seed, k: r.random_problem(random.Random(seed), k), st.integers(0, 10**9), st.integers(1, 7))


# problems

@settings(max_examples=60)
@given(problem)
def test_reasoning_misreadings_decide_the_answer(p):
    "Over every combination of misreadings: values stay in range, the answer is right iff nothing was misread, and the teacher's accuracy is the product."
    for one in (p, p.chain):
        every = list(chain.from_iterable(combinations(one.risky, k) for k in range(len(one.risky) + 1)))
        law = 0.
        for misread in every:
            lines = one.lines(misread)
            assert all(0 <= after <= r.LARGEST for *_, after in lines)
            assert (str(lines[-1][-1]) == one.answer) == (not misread)
            law += math.prod(r.misread_chance(*one.steps[i]) if i in misread else 1 - r.misread_chance(*one.steps[i]) for i in one.risky)
            if not misread: assert math.isclose(one.teacher_accuracy, math.prod(1 - r.misread_chance(*s) for s in one.steps))
        assert math.isclose(law, 1)
    assert p.chain.answer == p.answer[-1] and p.chain.risky == p.risky
    assert r.read_problem(r.prompt_of(p)) == p
    assert r.read_problem(r.prompt_of(p).replace(" ", "") if p.modulus else r.prompt_of(p)) == p


def oracle_mistake(prompt, given):
    "By definition: the shortest prefix that no correct solution begins with."
    correct = [[*r.words(r.solution_of(r.read_problem(prompt))), "<eos>"]]
    return next((k for k in range(len(given)) if not any(c[:k + 1] == given[:k + 1] for c in correct)), None)


@settings(max_examples=80)
@given(problem, st.booleans(), st.randoms(use_true_random=False), st.integers(0, 3))
def test_reasoning_first_mistake_is_found(p, last_digits, rng, damage):
    p = p.chain if last_digits else p
    text, mistake = r.teach(p, rng)
    prompt, given = r.prompt_of(p), r.words(text)
    assert r.first_mistake(prompt, text) == mistake
    if mistake is None: assert text == r.solution_of(p) and r.arithmetic_answer(text) == p.answer
    else: assert given[mistake] == "+" and r.misread_there(prompt, text) and r.arithmetic_answer(text) != p.answer
    values = r.teacher_values(prompt, given)
    assert math.isclose(values[0], p.teacher_accuracy) and values[-1] == (mistake is None)
    for _ in range(damage):                                           # now spoil it anywhere
        given[rng.randrange(len(given))] = rng.choice(r.VOCABULARY[2:])
        if rng.random() < .3: given = given[:rng.randrange(1, len(given) + 1)]
    assert r.first_mistake(prompt, given) == oracle_mistake(prompt, given)


def test_reasoning_check_of_first_mistakes_sees_faults():
    "A checker that is one token late, one that forgives an early end, and one that only looks at operators all differ from the definition somewhere."
    def late(prompt, given): return None if (k := r.first_mistake(prompt, given)) is None else k + 1
    def lenient(prompt, given): return r.first_mistake(prompt, [w for w in given if w != "<eos>"])
    def operators(prompt, given): return next((i for i, (a, b) in enumerate(zip(given, r.words(r.solution_of(r.read_problem(prompt))))) if a != b and b in "+-*"), None)
    rng, cases = random.Random(0), []
    for p in r.draw_problems(30):
        words = [*r.words(r.teach(p, rng)[0]), "<eos>"]
        cases += [(r.prompt_of(p), words), (r.prompt_of(p), [*words[:4], "<eos>"]), (r.prompt_of(p), [*words[:-2], "9", "9"])]
    assert all(r.first_mistake(*c) == oracle_mistake(*c) for c in cases)
    for faulty in (late, lenient, operators): assert any(faulty(*c) != oracle_mistake(*c) for c in cases)


def test_reasoning_teacher_misreads_as_often_as_it_says():
    rng, seen, told = random.Random(1), Counter(), Counter()
    problems = r.draw_problems(60, steps=4, seed=3)
    for p in problems:
        for _ in range(40):
            _, mistake = r.teach(p, rng)
            told[mistake is None] += 1
    expected = 40*sum(p.teacher_accuracy for p in problems)
    spread = math.sqrt(40*sum(p.teacher_accuracy*(1 - p.teacher_accuracy) for p in problems))
    assert abs(told[True] - expected) < 4*spread
    assert abs(told[True] - 40*len(problems)) > 4*spread               # a teacher without faults would be noticed


def test_reasoning_splits_and_seeds():
    stories, chains = (r.draw_problems(40, n, (2, 3), "test", 1) for n in r.NOTATIONS)
    assert [p.chain for p in stories] == chains and r.draw_problems(60, "story", (2, 3), "test", 1)[:40] == stories
    assert r.draw_problems(40, "story", (2, 3), "test", 2) != stories
    assert {r.split_of(p) for p in stories} == {r.split_of(p) for p in chains} == {"test"}
    assert {len(p.steps) for p in stories} == {2, 3} and len({r.prompt_of(p) for p in chains}) == 40
    found = r.arithmetic(5, "chain", split="tune")
    assert found.column_names == ["id", "prompt", "answer", "solution", "notation", "n_steps", "steps", "risky", "teacher_accuracy"]
    for row in found: assert r.arithmetic_answer(row["solution"]) == row["answer"] and r.read_problem(row["prompt"]).answer == row["answer"]
    for step in range(30): lesson = r.lesson(step, 2); assert lesson[0].shape == lesson[1].shape
    for bad in (dict(notation="prose"), dict(split="dev"), dict(steps=(4, 2)), dict(steps=0)):
        with pytest.raises(ValueError): r.draw_problems(1, **bad)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(r.VOCABULARY[4:]), min_size=1, max_size=30))
def test_reasoning_tokenizer_round_trip(given):
    tokenizer, text = r.arithmetic_tokenizer(), " ".join(given)
    ids = tokenizer(text)["input_ids"]
    assert ids == [1, *(r.VOCABULARY.index(w) for w in given)] and r.words(text) == given
    assert tokenizer.decode(ids, skip_special_tokens=True) == text and r.text_of(tokenizer, [*ids[1:], 2]) == text


# data from outside

@needs_data
def test_reasoning_gsm8k_and_math500_parse_completely():
    sizes = {}
    for split in ("train", "test"):
        rows = r.load_gsm8k(split, DATA)
        sizes[split] = len(rows)
        assert all(re.fullmatch(r"-?\d+(\.\d+)?", a) for a in rows["answer"])
        assert [r.extract_answer(s) for s in rows["solution"]] == list(rows["answer"])
    math_ = r.load_math500(DATA)
    assert (sizes["train"], sizes["test"], len(math_)) == (7473, 1319, 500)
    assert all(a.strip() for a in math_["answer"]) and set(math_["level"]) == {1, 2, 3, 4, 5}
    assert all(r.extract_answer(s) for s in math_["solution"])


def test_reasoning_data_errors_name_file_and_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_DATA", str(tmp_path))
    with pytest.raises(core.MissingModelError, match="TOKENSTUDY_DATA"): r.load_gsm8k()
    (tmp_path/"math500").mkdir()
    file = tmp_path/"math500"/"test.jsonl"
    good = dict(problem="1+1?", answer="2", solution="\\boxed{2}", level="Level 1", subject="Algebra", unique_id="x")
    for change, message in ((dict(answer=" "), "line 2: the field 'answer'"), (dict(level="hard"), "line 2: the field 'level'"), (dict(problem=3), "line 2: the field 'problem'")):
        file.write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
        with pytest.raises(core.CorruptFileError, match=message): r.load_math500()
    file.write_bytes(json.dumps(good).encode() + b"\n\xff\xfe\n")
    with pytest.raises(core.CorruptFileError, match="test.jsonl, line 2: not JSON"): r.load_math500()
    file.write_text(json.dumps(good))
    assert r.load_math500()[0]["level"] == 1


# grading

HANGING = r"\boxed{2003^{2002^{2001}}}"

ADVERSARIAL = [  # text, right answer, correct
    (r"\boxed{0.05}", "5", False), (r"\boxed{500}", "5", False), (r"\boxed{5\%}", "5", True), (r"\boxed{1{,}234}", "1234", True),
    (r"\boxed{1,234.50}", "1234.5", True), (r"\boxed{12 \text{ cm}}", "12", True), ("#### 12 apples", "12", True), (r"\boxed{\frac{3}{4}", "3/4", False),
    (r"\boxed{}", "1", False), ("", "1", False), (r"\boxed{__import__('os').abort()}", "1", False), (r"\boxed{\boxed{7}}", "7", True), ("{{{{", "1", False),
    (r"\boxed{\sqrt{2}/2}", r"\frac{1}{\sqrt{2}}", True), (r"\boxed{x^2-1}", "(x-1)(x+1)", True), ("\\boxed{\x00\ud800}", "1", False), (r"\boxed{\infty}", "1", False)]


def test_reasoning_grader_on_adversarial_answers():
    found = r.grade([t for t, *_ in ADVERSARIAL], [g for _, g, _ in ADVERSARIAL], timeout=2., workers=1)
    assert [g.correct for g in found] == [right for *_, right in ADVERSARIAL], [(t, g) for (t, _, right), g in zip(ADVERSARIAL, found) if g.correct != right]
    assert all(g.note for g in found if g.answer is None)


def test_reasoning_grader_in_threads_with_hanging_answers():
    "Off the main thread, several at once, each with a question that would never end; the answers beside it are graded all the same."
    results = [None]*3
    def work(i): results[i] = r.grade([HANGING, rf"\boxed{{{i}/2}}", "none"], ["3", str(i/2), "1"], timeout=.3, workers=2)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads: t.start()
    for t in threads: t.join(600)
    assert [[g.correct for g in one] for one in results] == [[False, True, False]]*3
    assert {one[0].note for one in results} == {"timed out"}
    r.close_graders()


def test_reasoning_grader_that_was_killed_is_replaced():
    assert r.grade(["1/2"], ["0.5"])[0]
    with grading._idle_lock: old = grading._idle[-1]
    old.process.kill(); old.process.wait()
    assert r.grade(["1/4"], ["0.25"])[0] and old not in grading._idle


def test_reasoning_grader_never_evaluates(monkeypatch):
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


def test_reasoning_grader_bad_input():
    for bad in ((["1"], ["1", "2"]), ("1", ["1"]), (["1"], [" "])):
        with pytest.raises(ValueError): r.grade(*bad)
    with pytest.raises(ValueError, match="timeout"): r.grade(["1"], ["1"], timeout=0)
    with pytest.raises(ValueError): r.grade_arithmetic(["# 1"], [])
    assert [g.correct for g in r.grade_arithmetic(["1 + 1 = 2 . # 2", "# 0 2", "# 2 3", "2", "# 2 #"], ["2"]*5)] == [True, False, False, False, False]


# trajectories

def made(problem="a", n=2, first=5):
    return [r.Trajectory(problem, [1, first], [7, 8 + i, 2], [-.5, -1/3, -.1*i], str(i), i == 0, True) for i in range(n)]


def test_reasoning_trajectories_survive_files_and_datasets(tmp_path):
    file = r.TrajectoryFile(tmp_path/"t.jsonl", dict(seed=1))
    file.append(made("a"), made("b", 3))
    file.append(made("ü\n"))
    again = r.TrajectoryFile(tmp_path/"t.jsonl", dict(seed=1))
    assert list(again) == made("a") + made("b", 3) + made("ü\n") and len(again) == 3
    assert r.trajectories_of(again.dataset()) == list(again)
    assert again.dataset()[0]["logprobs"] == [-.5, -1/3, 0.]
    with pytest.raises(ValueError, match="one problem"): file.append(made("c") + made("d"))
    with pytest.raises(ValueError, match="one problem"): file.append([])
    with pytest.raises(KeyError): file["z"]
    with pytest.raises(ValueError, match="no column 'finished'"): r.trajectories_of(again.dataset().remove_columns("finished"))


@settings(max_examples=25)
@given(st.data())
def test_reasoning_torn_files_lose_only_the_torn_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("torn")/"t.jsonl"
    file = r.TrajectoryFile(path, dict(seed=1))
    for name in "abc": file.append(made(name))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = r.TrajectoryFile(path, dict(seed=1))
        assert list(again.where) == list("abc")[:max(0, whole[:cut].count(b"\n") - 1)]
        for name in "abc":
            if name not in again: again.append(made(name))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("old, new, message", [
    (b"-0.5", b"NaN", "line 2"), (b"-0.5", b"-Infinity", "line 2"), (b'"samples"', b'"sampled"', "line 2"), (b'{"problem":"b"', b'{"problem":"a"', "line 3.*twice"),
    (b"[7,8,2]", b"[7,8]", "line 2"), (b"true", b'"yes"', "line 2"), (b"\n{", b"\n\xff{", "line 2")])
def test_reasoning_corrupt_lines_are_named(tmp_path, old, new, message):
    path = tmp_path/"t.jsonl"
    r.TrajectoryFile(path).append(made("a"), made("b"))
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(core.CorruptFileError, match=message): list(r.TrajectoryFile(path))


def test_reasoning_two_writers_share_a_file(tmp_path):
    files = [r.TrajectoryFile(tmp_path/"t.jsonl") for _ in range(2)]
    def work(i):
        for k in range(10): files[i].append(made(f"{i} {k}"))
    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(r.TrajectoryFile(tmp_path/"t.jsonl")) == 20 and len(files[0]) == 20
    with pytest.raises(ValueError, match="already"): files[0].append(made("1 3"))


def tiny():
    from tokenstudy import lm
    return lm.LM(r.new_generator(16, 1).eval(), r.arithmetic_tokenizer(), "tiny")

SAMPLING = dict(n=2, max_new_tokens=5, group=2, seed=4)

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from tokenstudy import reasoning as r
import test_reasoning as t
append = r.TrajectoryFile.append
def killed(self, *groups):
    if len(self) >= 2:
        with open(self.path, "ab") as f: f.write(b'{{"problem":"half')
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, *groups)
r.TrajectoryFile.append = killed
r.sample_trajectories(t.tiny(), r.arithmetic(5, "chain"), path={path!r}, **t.SAMPLING)
"""


def test_reasoning_sampling_resumes_after_a_kill(tmp_path):
    problems = r.arithmetic(5, "chain")
    whole = r.sample_trajectories(tiny(), problems, path=tmp_path/"whole.jsonl", **SAMPLING)
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(tmp_path/"killed.jsonl"))
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with pytest.warns(UserWarning, match="half-written"):
        resumed = r.sample_trajectories(tiny(), problems, path=tmp_path/"killed.jsonl", batch_size=3, **SAMPLING)
    assert len(resumed) == 5
    for a, b in zip(whole, resumed, strict=True):
        assert dataclasses.replace(a, logprobs=b.logprobs) == b and np.allclose(a.logprobs, b.logprobs, atol=1e-5)
    with pytest.raises(ValueError, match="other settings \\(n\\)"): r.sample_trajectories(tiny(), problems, path=tmp_path/"whole.jsonl", **SAMPLING | dict(n=3))
    other = r.sample_trajectories(tiny(), problems, **SAMPLING | dict(seed=5))
    assert [t.response_ids for t in other] != [t.response_ids for t in whole]


def test_reasoning_logprobs_belong_to_the_ids():
    "Read back by one forward pass; a shift by one is noticed, and so is a lost end-of-sequence token."
    from tokenstudy import lm
    model = tiny()
    rows = r.sample_trajectories(model, r.arithmetic(3, "chain"), n=6, max_new_tokens=30)
    read, _ = lm.token_logprobs(model, [t.prompt_ids + t.response_ids for t in rows])
    for t, row in zip(rows, read.numpy()):
        start = len(t.prompt_ids)
        assert np.allclose(row[start:start + len(t.response_ids)], t.logprobs, atol=1e-4)
        assert not np.allclose(row[start + 1:start + len(t.response_ids)], t.logprobs[:-1], atol=1e-4) or len(t.response_ids) < 3
        assert t.finished == (t.response_ids[-1] == 2) and t.response_ids.count(2) == t.finished
    assert any(t.finished for t in rows)
    with pytest.raises(ValueError, match="the id 'x'"):
        r.sample_trajectories(model, r.arithmetic(2, "chain").map(lambda row: dict(id="x")))


# the trie

def slow_trie(paths, right, weights):
    out = {}
    for p, good, w in zip(paths, right, weights):
        for k in range(len(p) + 1):
            c, g = out.get(tuple(p[:k]), (0, 0))
            out[tuple(p[:k])] = c + w, g + w*good
    return out


def as_dict(trie): return {tuple(trie.tokens(i)): (c, g) for i, (c, g) in enumerate(zip(trie.count.tolist(), trie.right.tolist()))}


some_paths = st.lists(st.tuples(st.lists(st.integers(0, 3) | st.just(2**31 - 1), max_size=6), st.booleans(), st.integers(1, 4)), min_size=1, max_size=25)


@settings(max_examples=100)
@given(some_paths)
def test_reasoning_trie_equals_a_dictionary(rows):
    paths, right, weights = zip(*rows)
    trie = r.Trie(paths, right, weights)
    assert as_dict(trie) == slow_trie(paths, right, weights)
    for i, p in enumerate(paths):
        assert [trie.tokens(n) for n in trie.nodes(i)] == [list(p[:k + 1]) for k in range(len(p))]
        assert trie.find(p) == trie.leaf[i] and trie.depth[trie.leaf[i]] == len(p)
    for node in range(len(trie)):
        assert all(trie.parent[c] == node for c in trie.children(node)) and len(set(trie.token[trie.children(node)])) == len(trie.children(node))
    ends = np.bincount(trie.leaf, trie.weights, len(trie))
    assert (np.bincount(trie.parent[1:], trie.count[1:], len(trie)) + ends == trie.count).all()
    assert (trie.parent[1:] < np.arange(1, len(trie))).all()
    order = np.random.default_rng(0).permutation(len(paths))
    assert as_dict(r.Trie([paths[i] for i in order], np.array(right)[order], np.array(weights)[order])) == as_dict(trie)
    flat = np.array([t for p in paths for t in p], np.int64), trie.starts
    assert as_dict(r.Trie(flat, right, weights)) == as_dict(trie)
    fractions = r.Trie(paths, right, np.array(weights)/4)
    assert np.allclose(fractions.count*4, trie.count) and np.allclose(fractions.value, trie.value)


def test_reasoning_trie_by_hand():
    "papers/tvm.md §5."
    paths, right = ["abcd", "abce", "abf", "ag", "abcd", "h"], [1, 0, 1, 0, 1, 0]
    trie = r.Trie([[ord(c) for c in p] for p in paths], right)
    value = {"".join(map(chr, trie.tokens(i))): v for i, v in enumerate(trie.value)}
    assert value == {"": 3/6, "a": 3/5, "ab": 3/4, "abc": 2/3, "abcd": 1, "abce": 0, "abf": 1, "ag": 0, "h": 0}
    tvm = sum((.5 - trie.value[n])**2 for i in range(6) for n in trie.nodes(i))
    outcome = sum((.5 - right[i])**2 for i in range(6) for n in trie.nodes(i))
    assert math.isclose(tvm, 1.88333, abs_tol=1e-5) and math.isclose(outcome - tvm, 2.61667, abs_tol=1e-5)
    alone = r.Trie([[1, 2, 3]], [1])
    assert alone.value.tolist() == [1]*4                                    # one path: its outcome everywhere
    first, weights = trie.unique()
    assert as_dict(r.Trie([[ord(c) for c in paths[i]] for i in first], np.array(right)[first], weights)) == as_dict(trie)


@pytest.mark.parametrize("fault", ["the node is not part of the key", "a lost collision", "a parent too high"])
def test_reasoning_trie_check_sees_faults(monkeypatch, fault):
    "A trie that confuses prefixes, loses a node or hangs it elsewhere differs from the dictionary's."
    def grow(tokens, starts, keys, values, token, parent, depth, node_of):
        children, nodes = {}, 1
        for i in range(len(starts) - 1):
            node = 0
            for j in range(starts[i], starts[i + 1]):
                key = {"the node is not part of the key": (depth[node], tokens[j])}.get(fault, (node, tokens[j]))
                if fault == "a lost collision" and node and tokens[j] == 2: key = (node, 1)
                if key not in children:
                    children[key] = nodes
                    up = parent[node] if fault == "a parent too high" and node else node
                    token[nodes], parent[nodes], depth[nodes] = tokens[j], max(up, 0), depth[node] + 1
                    nodes += 1
                node = children[key]
                node_of[j] = node
        return nodes
    paths, right = [[0, 1, 2], [1, 1, 2], [0, 1, 1], [2, 2, 1]], [1, 0, 0, 1]
    monkeypatch.setattr(r, "_compiled", lambda function: grow if function is trie_._grow else function)
    assert as_dict(r.Trie(paths, right)) != slow_trie(paths, right, [1]*4)


def test_reasoning_trie_kernel_equals_plain_python(monkeypatch):
    draw = np.random.default_rng(1)
    paths = [draw.integers(0, 50, draw.integers(0, 40)).tolist() for _ in range(60)]
    right = draw.integers(0, 2, 60)
    compiled = r.Trie(paths, right)
    assert as_dict(compiled) == {k: (int(c), int(g)) for k, (c, g) in slow_trie(paths, right, [1]*60).items()}


def test_reasoning_trie_bad_input():
    for bad, message in ((dict(paths=[]), "at least one"), (dict(paths=[[-1]]), "must lie"), (dict(paths=[[2**31]]), "must lie"), (dict(paths=[[1]], right=[.5, 1]), "one for each path"),
                         (dict(paths=[[1]], right=[-1]), "right must lie"), (dict(paths=[[1]], weights=[-1]), "not positive"), (dict(paths=[[1]], right=[math.nan]), "not finite"),
                         (dict(paths=(np.array([1, 2]), [0, 3])), "starts must rise")):
        with pytest.raises(ValueError, match=message): r.Trie(**bad)
    with pytest.raises(ValueError, match="no labels"): r.Trie([[1]]).value
    with pytest.raises(ValueError, match="several"): r.trie_of(made("a") + made("b"))
    assert r.trie_of(made("a", 3)).value[0] == 1/3
    assert r.Trie([[1], [1], [2]], [1, 0, 1]).mixed().tolist() == [0, 1]


# the generator

def test_reasoning_generator_is_what_it_says():
    "The embedded model: Llama, about a million parameters; right about half the time, wrong mostly by misreading; the same with the same seed."
    model = r.load_generator()
    assert 5e5 < sum(p.numel() for p in model.model.parameters()) < 2e6 and model.model.config.model_type == "llama"
    problems = r.arithmetic(16, "chain", 3, "test")
    rows = r.sample_trajectories(model, problems, n=12)
    again = r.sample_trajectories(model, problems.select(range(8)), n=12, batch_size=50)
    assert [t.response_ids for t in rows[:len(again)]] == [t.response_ids for t in again]
    share = np.mean([t.correct for t in rows])
    assert .3 < share < .9, share
    assert np.mean([t.finished for t in rows]) > .9


def test_reasoning_training_resumes_and_refuses(tmp_path):
    tiny_ = dict(steps=3, decay=1, warmup=1, batch=2, hidden=16, layers=1, device="cpu")
    straight = r.train_generator(**tiny_)
    file = tmp_path/"g"
    r.train_generator(checkpoint=file, **tiny_ | dict(steps=2, decay=0))
    resumed = r.train_generator(checkpoint=file, **tiny_)
    assert all(a.equal(b) for a, b in zip(straight.model.parameters(), resumed.model.parameters()))
    with pytest.raises(ValueError, match="other settings"): r.train_generator(checkpoint=file, **tiny_ | dict(lr=1.))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(core.CorruptFileError, match="not readable"): r.train_generator(checkpoint=file, **tiny_)


def test_reasoning_lessons_hide_the_prompt():
    "Labels are exactly the solution and the end; prompts and padding carry none."
    ids, labels = r.lesson(4, 6)
    for row, label in zip(ids.tolist(), labels.tolist()):
        text = [r.VOCABULARY[t] for t in row if t]
        end = text.index("=") if "has" not in text else text.index("?")
        solution = [r.VOCABULARY[t] for t in label if t >= 0]
        assert text == [*text[:end + 1], *solution] and solution[-1] == "<eos>" and "<pad>" not in solution
        assert r.split_of(r.read_problem(" ".join(text[1:end + 1]))) == "train"


def test_reasoning_taught_solutions_carry_their_first_mistake():
    problems = r.arithmetic(12, "story", split="tune")
    rows = r.taught(problems, 5, seed=2)
    assert len(rows) == 60 and r.taught(problems.select([3]), 5, seed=2)[:] == rows[15:20] and r.taught(problems, 5, seed=3)[:] != rows[:]
    assert len(r.taught(problems.select([]))) == 0
    for row in rows:
        assert row["correct"] == (row["mistake"] is None) == (r.arithmetic_answer(row["response"]) == r.read_problem(row["prompt"]).answer)
        assert r.first_mistake(row["prompt"], row["response"]) == row["mistake"]
    ids = [[*map(r.VOCABULARY.index, r.words(row["response"])), 2] for row in rows]
    sampled = [r.Trajectory(row["problem"], [1], one, [-1.]*len(one), row["answer"], row["correct"], True) for row, one in zip(rows, ids)]
    assert r.first_mistakes(sampled, problems, r.arithmetic_tokenizer()) == list(rows["mistake"])
    with pytest.raises(ValueError, match="not in the data set"): r.first_mistakes(sampled, r.arithmetic(1), r.arithmetic_tokenizer())


def test_reasoning_without_data_and_hub_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delenv("TOKENSTUDY_DATA", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    import datasets
    def offline(*args, **kwargs): raise ConnectionError("no route\nto the hub")
    monkeypatch.setattr(datasets, "load_dataset", offline)
    for load, name in ((r.load_gsm8k, "gsm8k/test.jsonl"), (r.load_math500, "math500/test.jsonl")):
        with pytest.raises(core.MissingModelError, match=f"no route.*{name}.*TOKENSTUDY_DATA"): load()
    rows = [dict(question="1+1?", answer="#### 2")]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows)          # the hub's rows have the same fields
    assert r.load_gsm8k()[0]["answer"] == "2"
    rows = [dict(question="1+1?", answer="two")]
    with pytest.raises(core.CorruptFileError, match="openai/gsm8k, row 0"): r.load_gsm8k()
