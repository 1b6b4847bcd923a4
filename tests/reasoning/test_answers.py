"Answers in the styles of models in use, against math-verify's own extraction; all answers of GSM8K and MATH-500; texts that would keep a pattern busy for ever."
import json
import subprocess
import sys

import pytest

from tokenstudy import reasoning as r
from tokenstudy.reasoning import answers
from reasoning.answer_formats import FORMULAS, LATEX, NUMBERS, REPORTED, SINGLE, VALUES
from reasoning.test_datasets import DATA, needs_data


def plain(value): return value.replace(",", "")


CASES = [(template.replace("{{", "{").replace("}}", "}") if "{}" not in template else template.format(*[v]*9), plain(v)) for _, template in NUMBERS for v in VALUES]
CASES += [(template.format(v), v) for _, template in FORMULAS for v in LATEX] + SINGLE + [case for case in REPORTED if case[1]]
CASES = list(dict.fromkeys(CASES))


def test_there_are_enough_cases():
    assert len(CASES) > 450 and len({text for text, _ in CASES}) == len(CASES)


def ours(): return [bool(g) for g in r.grade([text for text, _ in CASES], [gold for _, gold in CASES])]


def theirs():
    "math-verify as it comes: its extraction, its judgement."
    from math_verify import parse, verify
    found = []
    for text, gold in CASES:
        try: found.append(bool(verify(parse(rf"\boxed{{{gold}}}"), parse(text))))
        except Exception: found.append(False)
    return found


def test_reported_answer_formats_are_read():
    found = ours()
    assert all(found), [case for case, right in zip(CASES, found) if not right]
    peer = theirs()
    assert sum(peer) < len(CASES), "the comparison can be lost"        # so what the peer reads is read here, and more


def test_a_missing_rule_is_noticed(monkeypatch):
    monkeypatch.setattr(answers, "_behind_answer", lambda text: None)
    assert not all(ours())


@pytest.mark.parametrize("text, answer", [case for case in REPORTED if case[1] is None] + [("", None), ("no number", None), (r"\boxed{\frac{1}{2}", None), (None, None)])
def test_reported_texts_without_an_answer(text, answer): assert r.extract_answer(text) is None


def test_several_boxes_are_a_choice():
    text = r"The roots are \boxed{3} and \boxed{5}."
    assert [r.extract_answer(text, boxes=which) for which in ("last", "first", "all")] == ["5", "3", "3,5"]
    assert [bool(r.grade([text], [gold], boxes="all")[0]) for gold in ("3,5", "5,3", "5")] == [True, True, False]      # math-verify reads a list as a set
    with pytest.raises(ValueError, match="boxes = 'any'"): r.extract_answer("1", boxes="any")


MATH_FORMATS = ["{}", "The answer is ${}$.", "The answer is {}.", r"The answer is \({}\).", "So\n\\[{}\\]", r"Thus \boxed{{{}}}.", "so it is ${}$.", "**Answer:**\n\n$${}$$\n",
                "### Final Answer\n${}$", "<think>3</think><answer>{}</answer>"]
GSM_FORMATS = ["{}", r"\boxed{{{}}}", "The answer is {}.", "So she pays ${}.", "#### {}", "The answer is {} dollars.", "**{}**", "x = {}", "**Final Answer:**\n\n{}",
               "#### {}. That is it", r"\boxed{{\${}}}", r"\boxed{{\text{{{}}}}}", r"{}\text{{ miles}}", "{}.0"]


@needs_data
@pytest.mark.parametrize("form", MATH_FORMATS)
def test_every_answer_of_math500(form):
    golds = r.load_math500(DATA)["answer"]
    found = [r.extract_answer(form.format(gold)) for gold in golds]
    wrong = [(gold, answer) for gold, answer in zip(golds, found) if answer is None or "".join(answer.split()) != "".join(answers.clean_answer(gold).split())]
    assert not wrong


@needs_data
@pytest.mark.parametrize("form", GSM_FORMATS)
def test_every_answer_of_gsm8k(form):
    golds = list(r.load_gsm8k("test", DATA)["answer"])
    assert all(r.grade([form.format(gold) for gold in golds], golds))
    assert not any(r.grade([form.format(gold) for gold in golds], [str(int(gold) + 1) for gold in golds]))


BOMBS = dict(dollars="$"*60000, prices="$1 "*30000, brackets=r"\["*30000, parentheses=r"\("*30000, answer="answer "*20000, answers="answer is "*20000, hashes="####"*30000,
             headings="#### x "*10000, commas="1,"*60000, numbers="1 "*60000, boxes=r"\boxed{"*20000, bare=r"\boxed\frac"*10000, lines="\n"*100000, spaces=" "*100000,
             stars="*"*100000, head="#"*100000 + " answer", text=r"\text{"*20000, open="("*50000, tags="<answer>"*20000, digits="7"*200000, points="1.1"*60000, words="a "*80000,
             equals="="*60000, halves="½"*50000, nested=r"\boxed{"*9000 + "}"*9000, ticks="`"*100000, lonely="\n answer\n"*20000)


def test_no_text_keeps_the_patterns_busy():
    "In a process that can be ended: a pattern that is busy for ever cannot be interrupted. All take two seconds; squares of these lengths would take hours."
    code = "import json, sys; from tokenstudy.reasoning import extract_answer; [extract_answer(text) for text in json.load(sys.stdin)]"
    subprocess.run([sys.executable, "-c", code], input=json.dumps(list(BOMBS.values())), text=True, timeout=600, check=True)
