"""Several processes on one study: results are those of one process, one of them writes, and what is called apart is found."""
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from conftest import ROOT
from tokenstudy import core

PROGRAM = Path(__file__).with_name("shared_work.py")
PARTS = ("sampled", "rolled", "searched", "scored", "identified", "solved", "written", "verified", "preferred")


def launch(processes, folder, *program, share="1"):
    env = os.environ | dict(TOKENSTUDY_SHARE=share, TOKENSTUDY_DEVICE="cpu", TOKENSTUDY_PROGRESS="off", TOKENSTUDY_HOME=str(folder), SHARED_FOLDER=str(folder),
                            OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), PYTHONWARNINGS="ignore")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *map(str, program)]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    "The results of all parts, of one process and of two."
    out = {}
    for n in (1, 2):
        folder = tmp_path_factory.mktemp(f"of{n}")
        done = launch(n, folder, PROGRAM)
        assert done.returncode == 0, done.stderr[-3000:]
        out[n] = json.loads((folder/"found.json").read_text())
    return out


def same(a, b):
    if isinstance(a, float) and isinstance(b, float): return a == pytest.approx(b, rel=1e-5, abs=1e-6)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list): return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("part", PARTS)
def test_two_processes_have_the_results_of_one(found, part): assert same(found[1][part], found[2][part])


def test_the_parts_are_no_empty_ones(found):
    assert sorted(found[1]) == sorted(PARTS) and all(found[1].values())
    assert found[2]["written"][2:] == [1, 1] and found[2]["searched"][1:] == [True, 5]     # done once by each, and written once


@pytest.mark.parametrize("how, said", [("apart", "at place 0, process 1 at place 1"), ("different", "at score_responses")])
def test_processes_that_make_different_calls_are_told(tmp_path, how, said):
    done = launch(2, tmp_path, PROGRAM, how)
    assert done.returncode and said in done.stderr.replace("process 0 is ", "") and "TOKENSTUDY_SHARE=1" in done.stderr


def test_without_the_word_every_process_works_alone(tmp_path):
    program = tmp_path/"alone.py"
    program.write_text("from tokenstudy import core\nprint('alone', core.launched(), core.num_processes(), core.rank(), core.share(['a', 'b', 'c']))")
    done = launch(2, tmp_path, program, share="0")
    assert done.stdout.count("alone 2 1 0 ['a', 'b', 'c']") == 2


def test_a_study_under_a_launcher(tmp_path):
    "Kernels of each notebook meet, the first process writes, and a notebook that fails ends the run."
    (tmp_path/"nbs"/"multidraft").mkdir(parents=True)
    (tmp_path/"settings.ini").write_text((ROOT/"settings.ini").read_text())
    cell = "import os\nfrom tokenstudy import core\nruns = core.Runs('multidraft/toy')\nwork = lambda: core.gather([[i, os.getpid()] for i in core.share(range(5))], 5)\nprint('processes', len({p for _, p in runs(dict(a={a}), work)}))"
    for n, code in enumerate((cell, cell, "1/0", cell)):
        nbformat.write(new_notebook(cells=[new_markdown_cell("# Toy"), new_code_cell(code.replace("{a}", str(n)))]), str(tmp_path/"nbs"/"multidraft"/f"0{n + 1}_toy.ipynb"))
    done = launch(2, tmp_path, "-m", "tokenstudy.app.commands", "study", "--scale", "smoke", share="")
    runs = tmp_path/"runs"/"smoke"
    copies = sorted(p.name for p in (runs/"notebooks"/"multidraft").glob("*.ipynb"))
    assert done.returncode and "ZeroDivisionError" in done.stderr and (runs/"report.html").is_file()
    assert copies[:2] == ["01_toy.ipynb", "02_toy.ipynb"] and "04_toy.ipynb" not in copies
    assert all("processes 2" in (runs/"notebooks"/"multidraft"/name).read_text() for name in copies[:2])
    assert done.stderr.count("01_toy  done") == 1


@pytest.mark.parametrize("name, value, said", [("TOKENSTUDY_SHARE", "yes", "must be 0 or 1"), ("WORLD_SIZE", "two", "WORLD_SIZE is 'two'")])
def test_bad_arguments_words_of_the_launcher(monkeypatch, name, value, said):
    monkeypatch.setenv("TOKENSTUDY_SHARE", "1")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said): core.num_processes()


def test_bad_arguments_too_few_results():
    with pytest.raises(ValueError, match="done holds 1 results for a share of 2 of count = 2"): core.gather([1], 2)


def test_the_card_of_a_process(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    for rank, wanted, place in (("2", None, "cuda:2"), ("2", "cuda", "cuda:2"), ("2", "cuda:1", "cuda:1"), ("2", "cpu", "cpu"), (None, None, "cuda")):
        for key, value in dict(LOCAL_RANK=rank, TOKENSTUDY_DEVICE=wanted).items(): monkeypatch.setenv(key, value) if value else monkeypatch.delenv(key, raising=False)
        assert str(core.device()) == place
    monkeypatch.delenv("TOKENSTUDY_DEVICE", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "7")
    with pytest.raises(ValueError, match="torch sees 4"): core.device()
    monkeypatch.setenv("LOCAL_RANK", "one")
    with pytest.raises(ValueError, match="LOCAL_RANK is 'one'"): core.device()


def test_bad_arguments_a_device_without_float64():
    with pytest.raises(ValueError, match="mps.*no float64"): core.device("mps")
