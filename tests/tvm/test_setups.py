"Setups: what was sampled, lessons, where steps end."
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tokenstudy import core, lm, reasoning
from tokenstudy.tvm.setups import StepEnds, arithmetic_setup, delimiter_ids, text_setup
from tvm.toys import ids, tiny


@pytest.fixture(scope="module")
def setup(): return arithmetic_setup(8, 6, 5, num_test_samples=4)


def test_tvm_setup_is_what_was_sampled(setup, tmp_path):
    assert len(setup.train) == 8 and [len(t) for t in setup.train.values()] == [6]*8 and [len(s) for s in setup.samples] == [4]*5
    assert not {t[0].prompt_ids[1:].__str__() for t in setup.train.values()} & {s[0].prompt_ids[1:].__str__() for s in setup.samples}
    for some, true, prompt in zip(setup.samples, setup.truth, setup.problems["prompt"]):
        for t, v in zip(some, true):
            assert len(v) == len(t.response_ids) and v[-1] == float(t.correct)
            words = setup.generator.tokenizer.convert_ids_to_tokens(t.response_ids)
            at = reasoning.first_mistake(prompt, words)
            assert at is None or not v[at:].any()
    kept = arithmetic_setup(2, 3, 2, num_test_samples=2, folder=tmp_path)
    again = arithmetic_setup(2, 3, 2, num_test_samples=2, folder=tmp_path)
    assert kept.samples == again.samples and sorted(p.suffix for p in tmp_path.glob("*.sqlite")) == [".sqlite"]*2


def test_tvm_lessons_are_the_first_samples(setup):
    some = setup.lessons(2)
    assert len(some) == 16 and some[:2] == list(setup.train.values())[0][:2]
    with pytest.raises(ValueError, match="there are 6 samples"): setup.lessons(7)


def test_tvm_text_setup_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(core.MissingModelError, match="no gsm8k"): text_setup(source=tmp_path)


def test_values_delimiters_are_found_inside_tokens():
    class Fake:
        words = ["a", "\n", ".\n", "b."]
        def __len__(self): return 4
        def batch_decode(self, rows): return [self.words[i] for i, in rows]
    assert delimiter_ids(Fake()) == {1, 2} and delimiter_ids(Fake(), ".") == {2, 3}
    with pytest.raises(ValueError, match="no token"): delimiter_ids(Fake(), "§")


def test_step_ends():
    pieces = {0: "a", 1: "\n", 2: ".\n", 3: "b\n\nc", 4: "x"}
    class Tokenizer:
        def __call__(self, text, **_): return dict(input_ids=[1] * len(text) if set(text) == {"\n"} else [0])
        def decode(self, ids): return "".join(pieces[i] for i in ids)
    model = lm.LM(tiny("llama").model, Tokenizer(), "toy")
    newline, two = StepEnds(model), StepEnds(model, "\n\n")
    assert [newline([4, t]) for t in range(5)] == [False, True, True, True, False]
    assert [two(t) for t in ([0], [1], [0, 1, 1], [2, 1], [3], [1, 0, 1], [1, 1, 0])] == [False, False, True, True, True, False, False]
    assert not newline([1]) and not newline([1, 1, 1]) and not two([1, 1]) and not two([1, 1, 1]) and newline([1, 1, 4, 1])
    assert [StepEnds(model, [3, 4])(t) for t in ([3], [3, 0], [0, 4])] == [True, False, True] and StepEnds(model, 2)([2])
    assert [StepEnds(model, block=2)(t) for t in ([1], [1, 1])] == [False, True]
    for bad, words in ((dict(delimiter="?"), "cannot write it"), (dict(delimiter=""), "cannot write it"), (dict(delimiter=[99]), "must lie below 12"), (dict(delimiter=[]), "must lie below"),
                       (dict(block=0), "must be ≥ 1"), (dict(block=2, delimiter=3), "not both")):
        with pytest.raises(ValueError, match=words): StepEnds(model, **bad)
    with pytest.raises(ValueError, match="no tokenizer"): StepEnds(tiny("llama"))


def test_search_delimiter_of_several_tokens():
    class Bytes:
        "A token for each byte."
        def __call__(self, text, add_special_tokens=False): return dict(input_ids=list(text.encode()))
        def decode(self, ids): return bytes(ids).decode(errors="replace")
    for text in ("∎", "\n\n", "x"):
        ends = StepEnds(SimpleNamespace(tokenizer=Bytes(), name="bytes"), text)
        for before in ("", "abc", "é"):
            ids = list((before + text).encode())
            assert [ends(ids[:i + 1]) for i in range(len(ids))] == [False] * (len(ids) - 1) + [bool(before)] # blank: no step



def smollm2():
    if lm.lm_status()[0]["state"] != "cached": pytest.skip("SmolLM2 is not converted here: tokenstudy models prepare")
    return lm.load_lm("smollm2", device="cpu", dtype="fp32")


@pytest.mark.parametrize("delimiter, text, steps", [
    ("\n\n", "First.\n\nSecond.\n\nThird", 3), ("</step>", "a = 1</step>b = 2</step>", 2),
    (". ", "One is 1. Two is 2. Three", 2), # the token " Two" completes it
    ("\n", "First.\n\n\nSecond.\n\nThird.\n", 3)])
def test_reported_labels_and_search_split_a_text_at_the_same_tokens(delimiter, text, steps):
    from tokenstudy.reasoning import Trajectory
    from tokenstudy.tvm.labels import label_samples, value_data
    model = smollm2()
    ends, ids = StepEnds(model, delimiter), model.tokenizer(text, add_special_tokens=False)["input_ids"]
    step, searched = [], []
    for i, token in enumerate(ids): # as a search does
        step.append(token)
        if ends(step): searched, step = searched + [i], []
    labels = label_samples([Trajectory("p", [1], ids, [0.] * len(ids), "5", True, True)], "prm_soft", ends)[0]
    assert np.flatnonzero(np.isfinite(labels)).tolist() == sorted({*searched, len(ids) - 1}) and len({*searched, len(ids) - 1}) == steps
    pieces = [model.tokenizer.decode(ids[a:b]) for a, b in zip([0, *[i + 1 for i in searched]], [i + 1 for i in searched])]
    assert all(p.replace(delimiter, "").strip() for p in pieces) and "".join(pieces) == text[:len("".join(pieces))]
    with pytest.raises(ValueError, match="StepEnds"): value_data([Trajectory("p", [1], ids, [0.] * len(ids), "5", True, True)], "prm_soft", delimiter)


PIECES = ["a", "\n", ".\n", "\n\n", "b\n\nc", "</", "step>", " ", "</step>"]


class Pieces:
    "A token for each of some pieces of text, which may be written in several ways."
    def __call__(self, text, **_): return dict(input_ids=[PIECES.index(text)] if text in PIECES else [])
    def decode(self, ids): return "".join(PIECES[i] for i in ids)


@given(st.lists(st.lists(st.integers(0, len(PIECES) - 1), min_size=1, max_size=9), min_size=1, max_size=5), st.sampled_from(["\n", "\n\n", "</step>"]))
def test_reported_steps_of_labels_are_steps_of_search(samples, delimiter):
    from tokenstudy.tvm.labels import step_ends
    ends = StepEnds(SimpleNamespace(tokenizer=Pieces(), name="pieces"), delimiter)
    flat, at = step_ends(reasoning.Trie(samples), ends), 0
    for tokens in samples:
        step, places = [], []
        for i, token in enumerate(tokens):
            step.append(token)
            if ends(step):
                text = Pieces().decode(step)
                assert delimiter in text and text.replace(delimiter, "").strip()
                places, step = places + [i], []
        rest, before = Pieces().decode(step), None
        while rest != before: before, rest = rest, rest.removeprefix(delimiter).lstrip()
        assert delimiter not in rest
        assert np.flatnonzero(flat[at:at + len(tokens)]).tolist() == sorted({*places, len(tokens) - 1})
        at += len(tokens)


def test_reported_solutions_without_an_inner_step_are_told():
    from tokenstudy.reasoning import Trajectory
    from tokenstudy.tvm.labels import label_samples, value_data
    def sample(tokens): return Trajectory("p", [1], tokens, [0.] * len(tokens), "5", True, True)
    ends, two, one = StepEnds(SimpleNamespace(tokenizer=Pieces(), name="pieces"), "\n\n"), [0, 1, 1, 0, 2], [0, 0, 0]
    with pytest.warns(UserWarning, match="of 2 samples 1 have no step that ends before"): assert value_data([sample(two), sample(one)], "prm_soft", ends).counts["one_step"] == 1
    with pytest.warns(UserWarning, match="no step that ends"): label_samples([sample(one)], "prm_hard", ends)
    with pytest.raises(ValueError, match="no step ends at the delimiter '.n.n' in any of 1"): value_data([sample(one)], "prm_soft", ends)
    assert "one_step" not in value_data([sample(one)], "tvm").counts and "one_step" not in value_data([sample(one)], "prm_soft", block=9).counts


@pytest.mark.parametrize("shots", [0, 1])
def test_tvm_text_setup_with_and_without_shown_problems(tmp_path, monkeypatch, shots):
    "Nothing is shown at gpu scale: the empty selection at the end of the training set is no selection."
    from tokenstudy.tvm import setups
    for split in ("train", "test"):
        core.atomic_write(tmp_path/"gsm8k"/f"{split}.jsonl", "\n".join(json.dumps(dict(question=f"{n} + 1 =", answer=f"#### {n + 1}")) for n in range(3)))
    words = ["Question:", "Answer:", *"0123456789", "+", "=", "####", "\n\n"]
    small = lm.tiny_lm("llama", vocab=len(words) + 2)._replace(tokenizer=lm.tiny_tokenizer(words))
    monkeypatch.setattr(lm, "load_lm", lambda model: small)
    monkeypatch.setattr(setups, "StepEnds", lambda generator: {1})
    made = text_setup("tiny", source=tmp_path, teach=0, shots=shots, num_train=2, num_samples=1, num_test=2, num_test_samples=1, max_new_tokens=2)
    assert len(made.train) == len(made.samples) == 2 and made.name == "GSM8K, tiny"
    assert [p.count("Question:") for p in made.problems["prompt"]] == [1 + shots]*2
