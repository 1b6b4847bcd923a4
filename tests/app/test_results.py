"The results page, the claims behind it and the glossary: computed from records, and different when a record is."
import json
import re
import shutil

import numpy as np
import pytest

from conftest import ROOT
from tokenstudy.app import charts, claims, cover, speed

MAKERS = dict(multidraft=claims.multidraft_claims, brat=claims.brat_claims, cdpo=claims.cdpo_claims, tvm=claims.tvm_claims)


def notebook(name: str) -> list: return json.loads((ROOT/f"nbs/{name}.ipynb").read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def project(tmp_path):
    "A folder with the committed records, and a way to change those of a study."
    shutil.copytree(ROOT/"results", tmp_path/"results")
    def change(study, edit):
        path = tmp_path/f"results/{study}/laptop.jsonl"
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for record in records: edit(record["config"], record["result"])
        path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        return tmp_path
    return change


def accept_more(config, result):
    for K in config.get("Ks", ()):
        if config["experiment"] == "acceptance": result["acceptance"][f"TruncatedLP {K}"] = [1.]*len(result["acceptance"][f"SpecTr {K}"])


def more_faithful(config, result):
    if config["strategy"] == "bonus, λ=.01": result["fidelity"] += .3


def all_solved(config, result):
    if config.get("entry") == {"method": "critical_dpo"} and config["step"] == "test":
        for measure in ("sampled", "greedy"): result[measure] = [1.]*len(result[measure])


def beam_solves_all(config, result):
    if config.get("kind") == "tvm":
        for found in result.get("searches", {}).values(): found["right"] = [1]*len(found["right"])


@pytest.mark.parametrize("number, paper, study, edit, verdict", [
    (0, "multidraft", "multidraft/acceptance", accept_more, "holds"), (1, "brat", "brat/fidelity", more_faithful, "holds"),
    (2, "cdpo", "cdpo/preference", all_solved, "holds"), (3, "tvm", "tvm/ordering", beam_solves_all, "holds")])
def test_a_changed_record_changes_table_and_chart(project, number, paper, study, edit, verdict):
    before, root = claims.headlines(), project(study, edit)
    after = claims.headlines(root)
    assert [a == b for a, b in zip(before, after)] == [i != number for i in range(4)]
    assert before[number].verdict != after[number].verdict == verdict
    assert MAKERS[paper]() != MAKERS[paper](root)
    if paper != "multidraft": assert charts.Chart(paper).svg() != charts.Chart(paper, root).svg()
    else:
        with pytest.raises(ValueError, match="off the axis"): charts.Chart(paper, root).svg()


def test_the_page_shows_what_the_records_give():
    shown = ["".join(o.get("data", {}).get("text/markdown", [])) for cell in notebook("results") for o in cell.get("outputs", [])]
    wanted = [claims.Verdicts(claims.headlines())] + [claims.Verdicts(make(), papers=False) for make in MAKERS.values()] + [speed.Speed()]
    assert [w for w in wanted if w._repr_markdown_() not in shown] == []


def test_cover_follows_its_records(project):
    def lower(config, result):
        if config["part"] == "values": result["incorrect"]["values"][-1] = .77
    here, there = cover.cover_files(), cover.cover_files(project("app/cover", lower))
    assert here.keys() == there.keys() and all(here[name] != there[name] and b"0.77" in there[name] for name in here)
    def other(config, result):
        if config["part"] == "solution": result["key"] = "0"*16
    with pytest.raises(ValueError, match="no record 0000"): cover.cover_records(project("app/cover", other))


@pytest.mark.parametrize("gains, verdict", [
    ([(1, .5, 2)], "holds"), ([(1, .5, 2), (1, -1, 2)], "holds partly"), ([(0, -1, 1)], "not seen here"),
    ([(-1, -2, -.5)], "reversed"), ([(-1, -2, -.5), (0, -1, 1)], "not seen here"), ([(0, 0, 0)], "not seen here")])
def test_verdicts(gains, verdict): assert claims.verdict(*(claims.Found(*g) for g in gains)) == verdict


def test_a_paired_difference_by_hand():
    schemes = dict(a=np.array([.5, .7]), b=np.array([.4, .6]))
    assert np.allclose(claims.acceptance_gain(schemes, "a", "b"), .1)


ACRONYMS = set("OVM ORM PRM TVM DPO cDPO RPO TDPO SFT NLL LoRA DVTS REBASE ECE AUC VAE LP KV BRAT CLIP".split())


def lacking(text: str) -> set: return ACRONYMS - set(re.findall(r"^\| (\S+) \|", text, re.MULTILINE))


def test_glossary():
    text = "\n".join("".join(cell["source"]) for cell in notebook("glossary"))
    assert lacking(text) == set()
    assert lacking(text.replace("| DVTS |", "| other |")) == {"DVTS"}
    rows = [line for line in text.splitlines() if line.startswith("| ") and ".ipynb)" in line]
    assert len(rows) >= 80 and [row for row in rows if len(re.split(r"(?<!\\)\|", row)) not in (5, 6)] == []
    links = {link for row in rows for link in re.findall(r"\(([\w/]+\.ipynb)\)", row)}
    assert sorted(link for link in links if not (ROOT/"nbs"/link).is_file()) == []
    letters = [line.split(" | ") for line in text.splitlines() if line.startswith("| $")]
    assert len(letters) >= 20 and all(len(row) == 6 for row in letters)
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT/"tokenstudy").rglob("*.py"))
    assert [name for row in letters for name in re.findall(r"`(\w+)`", row[-1]) if not re.search(rf"\b{name}\b", code)] == []


# ---- what the charts' descriptions say

def shown(paper, root=None):
    "The means of a chart's rows, by label and series."
    return {label: {name: found.mean for name, found in series.items() if found is not None} for label, series in charts.Chart(paper, root).rows}


def check_descriptions(root=None):
    "Each statement of the four descriptions is looked up in the records."
    rows = shown("multidraft", root)
    for label, series in rows.items():
        if label.startswith("temperature 1.2"): assert series["SpecTr"] < series["the paper's scheme"], label
        if label.startswith("temperature 2"): assert series["SpecTr"] > series["the paper's scheme"], label
    rows = shown("brat", root)
    for base in ("UNet", "transformer"):
        one, none = rows["one token"][base], rows["no learned token"][base]
        assert min(rows[way][base] for way in ("two tokens, λ = 0", "orthogonal bonus, λ = .01")) > one + 5, base
        assert abs(rows["orthogonal bonus, λ = 1"][base] - none) < 3 < one - none, base
    rows = shown("cdpo", root)
    for measure in ("sampled", "greedy"):
        paper = rows["critical tokens (the paper)"][measure]
        assert max(abs(paper - rows[other][measure]) for other in ("DPO", "RPO")) < 4, measure
        assert paper < min(rows[other][measure] for other in ("the weights, shuffled", "fine-tuning on chosen")), measure
    rows = shown("tvm", root)
    verifiers = [label for label in rows if "step beam" in rows[label]]
    beams = {label: rows[label]["step beam"] for label in verifiers}
    orm = next(label for label in verifiers if label.startswith("ORM"))
    others = [value for label, value in beams.items() if label != orm]
    assert max(others) - min(others) < 1 and beams[orm] < min(others) - 20
    chosen = [rows[label]["best of 8"] for label in verifiers]
    assert max(chosen) - min(chosen) < 1
    assert len(verifiers) == 5


def test_the_descriptions_of_the_charts_hold_in_the_records():
    "They are written by hand, and stand in README, on the site and in the drawing."
    check_descriptions()


def test_a_description_that_no_longer_holds_is_noticed(project):
    def better(config, result):
        if config["strategy"] == "bonus, λ=1": result["fidelity"] += .2
    with pytest.raises(AssertionError, match="UNet"): check_descriptions(project("brat/fidelity", better))
