"The arithmetic world: misreadings decide the answer, first mistakes and true values are what they say."
import math
import random
from collections import Counter
from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstudy import reasoning as r
from tokenstudy.reasoning import arithmetic_world as w


problem = st.builds(lambda seed, k: r.random_problem(random.Random(seed), k), st.integers(0, 10**9), st.integers(1, 7))


@settings(max_examples=60)
@given(problem)
def test_misreadings_decide_the_answer(p):
    "Over every combination of misreadings: values stay in range, the answer is right iff nothing was misread, and the teacher's accuracy is the product."
    for one in (p, p.chain):
        every = list(chain.from_iterable(combinations(one.risky, k) for k in range(len(one.risky) + 1)))
        total = 0.
        for misread in every:
            lines = one.lines(misread)
            assert all(0 <= after <= w.LARGEST for *_, after in lines)
            assert (str(lines[-1][-1]) == one.answer) == (not misread)
            total += math.prod(w.misread_chance(*one.steps[i]) if i in misread else 1 - w.misread_chance(*one.steps[i]) for i in one.risky)
            if not misread: assert math.isclose(one.teacher_accuracy, math.prod(1 - w.misread_chance(*s) for s in one.steps))
        assert math.isclose(total, 1)
    assert p.chain.answer == p.answer[-1] and p.chain.risky == p.risky
    assert r.read_problem(r.prompt_of(p)) == p
    assert r.read_problem(r.prompt_of(p).replace(" ", "") if p.modulus else r.prompt_of(p)) == p


def oracle_mistake(prompt, given):
    "By definition: the shortest prefix that no correct solution begins with."
    correct = [[*r.words(r.solution_of(r.read_problem(prompt))), "<eos>"]]
    return next((k for k in range(len(given)) if not any(c[:k + 1] == given[:k + 1] for c in correct)), None)


@settings(max_examples=80)
@given(problem, st.booleans(), st.randoms(use_true_random=False), st.integers(0, 3))
def test_first_mistake_is_found(p, last_digits, rng, damage):
    p = p.chain if last_digits else p
    text, mistake = r.faulty_solution(p, rng)
    prompt, given = r.prompt_of(p), r.words(text)
    assert r.first_mistake(prompt, text) == mistake
    if mistake is None: assert text == r.solution_of(p) and r.arithmetic_answer(text) == p.answer
    else: assert given[mistake] == "+" and r.is_misreading(prompt, text) and r.arithmetic_answer(text) != p.answer
    values = r.true_values(prompt, given)
    assert math.isclose(values[0], p.teacher_accuracy) and values[-1] == (mistake is None)
    for _ in range(damage):                                           # now spoil it anywhere
        given[rng.randrange(len(given))] = rng.choice(r.VOCABULARY[2:])
        if rng.random() < .3: given = given[:rng.randrange(1, len(given) + 1)]
    assert r.first_mistake(prompt, given) == oracle_mistake(prompt, given)


def test_check_of_first_mistakes_sees_faults():
    "A checker that is one token late, one that forgives an early end, and one that only looks at operators all differ from the definition somewhere."
    def late(prompt, given): return None if (k := r.first_mistake(prompt, given)) is None else k + 1
    def lenient(prompt, given): return r.first_mistake(prompt, [w for w in given if w != "<eos>"])
    def operators(prompt, given): return next((i for i, (a, b) in enumerate(zip(given, r.words(r.solution_of(r.read_problem(prompt))))) if a != b and b in "+-*"), None)
    rng, cases = random.Random(0), []
    for p in r.draw_problems(30):
        words = [*r.words(r.faulty_solution(p, rng)[0]), "<eos>"]
        cases += [(r.prompt_of(p), words), (r.prompt_of(p), [*words[:4], "<eos>"]), (r.prompt_of(p), [*words[:-2], "9", "9"])]
    assert all(r.first_mistake(*c) == oracle_mistake(*c) for c in cases)
    for faulty in (late, lenient, operators): assert any(faulty(*c) != oracle_mistake(*c) for c in cases)


def test_teacher_misreads_as_often_as_it_says():
    rng, seen, told = random.Random(1), Counter(), Counter()
    problems = r.draw_problems(60, steps=4, seed=3)
    for p in problems:
        for _ in range(40):
            _, mistake = r.faulty_solution(p, rng)
            told[mistake is None] += 1
    expected = 40*sum(p.teacher_accuracy for p in problems)
    spread = math.sqrt(40*sum(p.teacher_accuracy*(1 - p.teacher_accuracy) for p in problems))
    assert abs(told[True] - expected) < 4*spread
    assert abs(told[True] - 40*len(problems)) > 4*spread               # a teacher without faults would be noticed


def test_splits_and_seeds():
    stories, chains = (r.draw_problems(40, n, (2, 3), split="test", seed=1) for n in r.NOTATIONS)
    assert [p.chain for p in stories] == chains and r.draw_problems(60, "story", (2, 3), split="test", seed=1)[:40] == stories
    assert r.draw_problems(40, "story", (2, 3), split="test", seed=2) != stories
    assert {w.split_of(p) for p in stories} == {w.split_of(p) for p in chains} == {"test"}
    assert {len(p.steps) for p in stories} == {2, 3} and len({r.prompt_of(p) for p in chains}) == 40
    found = r.arithmetic(5, "chain", split="tune")
    assert found.column_names == ["id", "prompt", "answer", "solution", "notation", "n_steps", "steps", "risky", "teacher_accuracy"]
    for row in found: assert r.arithmetic_answer(row["solution"]) == row["answer"] and r.read_problem(row["prompt"]).answer == row["answer"]
    for bad in (dict(notation="prose"), dict(split="dev"), dict(steps=(4, 2)), dict(steps=0)):
        with pytest.raises(ValueError): r.draw_problems(1, **bad)


@settings(max_examples=40)
@given(st.lists(st.sampled_from(r.VOCABULARY[4:]), min_size=1, max_size=30))
def test_tokenizer_round_trip(given):
    tokenizer, text = r.arithmetic_tokenizer(), " ".join(given)
    ids = tokenizer(text)["input_ids"]
    assert ids == [1, *(r.VOCABULARY.index(w) for w in given)] and r.words(text) == given
    assert tokenizer.decode(ids, skip_special_tokens=True) == text and r.text_of(tokenizer, [*ids[1:], 2]) == text


def test_faulty_solutions_carry_their_first_mistake():
    problems = r.arithmetic(12, "story", split="tune")
    rows = r.faulty_solutions(problems, 5, seed=2)
    assert len(rows) == 60 and r.faulty_solutions(problems.select([3]), 5, seed=2)[:] == rows[15:20] and r.faulty_solutions(problems, 5, seed=3)[:] != rows[:]
    assert len(r.faulty_solutions(problems.select([]))) == 0
    for row in rows:
        assert row["correct"] == (row["mistake"] is None) == (r.arithmetic_answer(row["response"]) == r.read_problem(row["prompt"]).answer)
        assert r.first_mistake(row["prompt"], row["response"]) == row["mistake"]
    ids = [[*map(r.VOCABULARY.index, r.words(row["response"])), 2] for row in rows]
    sampled = [r.Trajectory(row["problem"], [1], one, [-1.]*len(one), row["answer"], row["correct"], True) for row, one in zip(rows, ids)]
    assert r.first_mistakes_of(sampled, problems, r.arithmetic_tokenizer()) == list(rows["mistake"])
    with pytest.raises(ValueError, match="not in the data set"): r.first_mistakes_of(sampled, r.arithmetic(1), r.arithmetic_tokenizer())


def test_distractors_must_be_skipped_to_be_correct():
    rows, again = (r.distractor_problems(12, split="test", seed=3) for _ in range(2))
    assert list(rows) == list(again) and list(rows)[:5] == list(r.distractor_problems(5, split="test", seed=3))
    for row in rows:
        first, *parts = row["prompt"].removesuffix(" . ?").split(" . ")
        own = [first, *(p for p in parts if p.split()[0] not in w.NAMES)]
        assert len(parts) - len(own) + 1 == 2 and first.split()[0] not in {p.split()[0] for p in parts if p not in own}
        assert r.read_problem(" . ".join([*own, "?"])).answer == row["answer"] == r.arithmetic_answer(row["solution"])
