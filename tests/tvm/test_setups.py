"Setups: what was sampled, lessons, where steps end."
from types import SimpleNamespace

import pytest

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
    with pytest.raises(core.MissingModelError, match="needs about 100000 GB"): text_setup("mistralai/Mistral-7B-v0.1", gigabytes=100_000)
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
    assert [two(t) for t in ([0], [1], [1, 1], [2, 1], [3], [1, 0, 1], [1, 1, 0])] == [False, False, True, True, True, False, False]
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
            assert [ends(ids[:i + 1]) for i in range(len(ids))] == [False] * (len(ids) - 1) + [True]
