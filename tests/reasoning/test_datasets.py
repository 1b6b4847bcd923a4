"Problems from files: every row is read, a damaged one is named; without data, what to do is said."
import json
import os
import re
from pathlib import Path

import pytest

from tokenstudy import core, reasoning as r

DATA = Path(os.environ.get("TOKENSTUDY_DATA") or Path(__file__).resolve().parents[3]/"shared"/"data")
needs_data = pytest.mark.skipif(not (DATA/"gsm8k"/"train.jsonl").is_file(),
                                reason=f"no GSM8K and MATH-500 in {DATA}; name their folder in TOKENSTUDY_DATA")


@needs_data
def test_gsm8k_and_math500_parse_completely():
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


def test_data_errors_name_file_and_line(tmp_path, monkeypatch):
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


def test_without_data_and_hub_says_what_to_do(monkeypatch, tmp_path):
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


@pytest.mark.parametrize("error, words", [
    ("DatasetNotFoundError: Dataset 'openai/gsm8k' is a gated dataset on the Hub.", "accept the licence on its page, https://huggingface.co/datasets/openai/gsm8k,.*hf auth login"),
    ("Dataset 'openai/gsm8k' doesn't exist on the Hub or cannot be accessed.", "no such repository"),
    ("Dataset scripts are no longer supported, but found gsm8k.py", "it is a data set script"),
    ("Couldn't reach 'openai/gsm8k' on the Hub (LocalEntryNotFoundError)", "does not answer"),
    ("", "RuntimeError.*check the network")])
def test_data_errors_of_the_hub_say_which_it_is(monkeypatch, error, words):
    monkeypatch.delenv("TOKENSTUDY_DATA", raising=False)
    import datasets
    def fail(*args, **kwargs): raise RuntimeError(error)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(core.MissingModelError, match=f"{words}.*gsm8k/test.jsonl.*TOKENSTUDY_DATA"): r.load_gsm8k()
