"cli: what is finished is kept, what changed is redone, what fails is said; on a toy checkout, with real kernels."
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import nbformat
import pytest

import tokenstudy
from tokenstudy import cli, core
from tokenstudy.cli import main

COUNT = "from pathlib import Path\nwith Path('../../count').open('a') as f: f.write('{}')"


def notebook(*cells) -> str:
    "A notebook from sources; those that start with '# ' are Markdown."
    made = [nbformat.v4.new_markdown_cell(c, id=f"c{i}") if c.startswith("# ") else nbformat.v4.new_code_cell(c, id=f"c{i}") for i, c in enumerate(cells)]
    return nbformat.writes(nbformat.v4.new_notebook(cells=made))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A toy checkout with one paper of one notebook, whose runs are counted by letters in the file `count`."
    root = tmp_path/"checkout"
    (root/"nbs"/"multidraft").mkdir(parents=True)
    (root/"settings.ini").touch()
    (root/"count").touch()
    monkeypatch.setenv("TOKENSTUDY_HOME", str(root))
    monkeypatch.delenv("TOKENSTUDY_SEEDS", raising=False)
    monkeypatch.setattr(cli, "library_hash", lambda: "as it is")
    put(root, "multidraft/00_x", "# The toy\n\n## The question\n\nIs $6 \\cdot 7$ what we think?", COUNT.format("a"), "#| export\n6 * 7")
    return root


def put(root, name, *cells):
    path = root/"nbs"/f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebook(*cells))
    return path


def count(root): return (root/"count").read_text()
def report(root): return (root/"runs"/"smoke"/"report.html").read_text()


def outputs(path) -> str:
    "All texts of a notebook's outputs."
    cells = json.loads(Path(path).read_text())["cells"]
    return "".join("".join(o.get("text", [])) + "".join(o.get("data", {}).get("text/plain", [])) for c in cells for o in c.get("outputs", []))


# ---- study: run, resume, redo

def test_study_runs_then_resumes_then_starts_over(checkout, capsys):
    copy = checkout/"runs"/"smoke"/"notebooks"/"multidraft"/"00_x.ipynb"
    assert main(["study"]) == 0
    assert count(checkout) == "a" and "42" in outputs(copy) and "42" in report(checkout)
    out = capsys.readouterr().out
    assert str(checkout/"runs"/"smoke"/"report.html") in out
    written = copy.read_bytes(), (checkout/"runs"/"smoke"/"report.html").stat().st_mtime_ns
    assert main(["study"]) == 0
    assert count(checkout) == "a"
    assert (copy.read_bytes(), (checkout/"runs"/"smoke"/"report.html").stat().st_mtime_ns) == written
    assert "0 of 1 notebook to run at scale smoke; 1 unchanged" in capsys.readouterr().err

    records = core.Runs("multidraft/toy", root=checkout)
    records(dict(i=1), lambda: 1)
    assert main(["study", "--fresh"]) == 0
    assert count(checkout) == "aa"
    assert not records.path.exists() and records.path.with_name("toy.jsonl.old").exists()


def test_what_changes_the_outputs_changes_the_key(checkout, monkeypatch):
    path = checkout/"nbs"/"multidraft"/"00_x.ipynb"
    nb = cli.source_notebook(path)
    keys = [cli.study_key(nb)]
    nb.cells[2].outputs = [nbformat.v4.new_output("stream", text="stored")]
    nb.metadata["widgets"] = {}
    assert cli.study_key(nb) == keys[0]
    nb.cells[0].source += " More prose."
    keys.append(cli.study_key(nb))
    for name, value in (("TOKENSTUDY_SCALE", "laptop"), ("TOKENSTUDY_SEEDS", "3")):
        monkeypatch.setenv(name, value)
        keys.append(cli.study_key(nb))
    monkeypatch.setattr(cli, "library_hash", lambda: "edited")
    keys.append(cli.study_key(nb))
    assert len(set(keys)) == len(keys)


def test_library_hash_sees_every_module(tmp_path, monkeypatch):
    (tmp_path/"sub").mkdir()
    monkeypatch.setattr(cli.importlib.resources, "files", lambda _: tmp_path)
    seen = {cli.library_hash()}
    for name, text in (("a.py", "1"), ("a.py", "2"), ("sub/b.py", "1")):
        (tmp_path/name).write_text(text)
        seen.add(cli.library_hash())
    assert len(seen) == 4
    (tmp_path/"notes.txt").touch()
    assert cli.library_hash() in seen


@pytest.mark.parametrize("damage", [lambda text: text[:len(text)//2], lambda text: "", lambda text: "[]", lambda text: text.replace('"key"', '"kay"')], ids=["cut", "empty", "list", "no key"])
def test_damaged_executed_copy_is_made_again(checkout, damage):
    copy = checkout/"runs"/"smoke"/"notebooks"/"multidraft"/"00_x.ipynb"
    path = checkout/"nbs"/"multidraft"/"00_x.ipynb"
    nb = cli.source_notebook(path)
    nb.metadata["tokenstudy"] = dict(key=cli.finished_copy and cli.study_key(nb))
    core.atomic_write(copy, cli.notebook_bytes(nb))
    assert cli.finished_copy(checkout, path)
    copy.write_text(damage(copy.read_text()))
    assert cli.finished_copy(checkout, path) is None


def test_failing_notebook_is_said_and_the_others_run(checkout, capsys):
    put(checkout, "multidraft/01_bad", "# Bad news", "print('so far')", "x = 0", "1 / x", "print('never')")
    put(checkout, "tvm/01_y", "# Another", COUNT.format("y"))
    assert main(["study"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in err and "cell 4, under “Bad news”" in err and "failed: multidraft/01_bad" in err and "\x1b" not in err
    folder = checkout/"runs"/"smoke"/"notebooks"/"multidraft"
    assert sorted(p.name for p in folder.iterdir()) == ["00_x.ipynb", "01_bad.failed.ipynb"]
    assert outputs(folder/"01_bad.failed.ipynb") == "so far\n"
    assert count(checkout) == "ay"
    assert "stopped at an error" in report(checkout) and "so far" in report(checkout) and "1 failed" in report(checkout)

    put(checkout, "multidraft/01_bad", "# Good news", "print('mended')")
    assert main(["study"]) == 0
    assert count(checkout) == "ay"
    assert sorted(p.name for p in folder.iterdir()) == ["00_x.ipynb", "01_bad.ipynb"]
    assert "stopped at an error" not in report(checkout)


def test_dead_kernel_is_a_failure(checkout, capsys):
    put(checkout, "multidraft/00_x", "import os\nos._exit(1)")
    assert main(["study"]) == 1
    assert "the kernel died" in capsys.readouterr().err


def test_report_is_there_after_the_first_notebook(checkout):
    put(checkout, "multidraft/01_y", "# Second", "from pathlib import Path\nprint('The toy' in Path('../../runs/smoke/report.html').read_text())")
    assert main(["study"]) == 0
    assert outputs(checkout/"runs"/"smoke"/"notebooks"/"multidraft"/"01_y.ipynb") == "True\n"


def test_interrupt_keeps_what_is_done_and_ends_the_kernel(checkout):
    put(checkout, "multidraft/01_long", "# Long", "import os, time\nfrom pathlib import Path\nif not Path('../../go').exists():\n    Path('../../pid.part').write_text(str(os.getpid()))\n"
        "    Path('../../pid.part').rename('../../pid')\n    time.sleep(600)", "print('through')")
    command = [sys.executable, "-m", "tokenstudy.cli", "study", "multidraft", "--scale", "smoke"]
    study = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (checkout/"pid").exists() and study.poll() is None: time.sleep(.05)
    study.send_signal(signal.SIGINT)
    _, err = study.communicate(timeout=60)
    assert study.returncode == 130
    assert "1 of 2 notebooks are finished and kept" in err and "Go on with: tokenstudy study multidraft --scale smoke" in err and "Traceback" not in err
    with pytest.raises(ProcessLookupError): os.kill(int((checkout/"pid").read_text()), 0)
    assert "The toy" in report(checkout)

    (checkout/"go").touch()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and "1 of 2 notebooks to run" in again.stderr
    assert count(checkout) == "a"
    assert outputs(checkout/"runs"/"smoke"/"notebooks"/"multidraft"/"01_long.ipynb") == "through\n"


def test_kernel_is_this_interpreter_with_our_settings(checkout):
    put(checkout, "multidraft/00_x", "import os, sys\nprint(sys.executable)\nprint(os.getcwd())\nprint([os.environ.get(k) for k in ('TOKENSTUDY_SCALE', 'TOKENSTUDY_SEEDS', 'TOKENSTUDY_HOME')])",
        "#| eval: false\nprint('not run')", "#|eval: false\n1/0", "sys.__stderr__.write('bar'); sys.__stderr__.flush()", "import matplotlib.pyplot as plt", "plt.plot([1, 2]);")
    assert main(["study", "--seeds", "3", "--scale", "gpu"]) == 0
    copy = checkout/"runs"/"gpu"/"notebooks"/"multidraft"/"00_x.ipynb"
    assert outputs(copy).splitlines()[:3] == [sys.executable, str(checkout/"nbs"/"multidraft"), f"['gpu', '3', '{checkout}']"]
    assert "not run" not in outputs(copy) and "bar" not in outputs(copy) and "image/png" in copy.read_text()
    assert not any("tags" in c["metadata"] for c in json.loads(copy.read_text())["cells"])
    assert os.environ["TOKENSTUDY_SCALE"] == "smoke" and "TOKENSTUDY_SEEDS" not in os.environ


# ---- study: which notebooks

def test_papers_come_in_reading_order(checkout):
    for name in ("tvm/01_a", "cdpo/01_b", "multidraft/09_bench", "multidraft/_draft", "other/01_c", "90_together", "91_cli"): put(checkout, name, "1")
    (checkout/"nbs"/"brat").mkdir()
    found = cli.find_studies(checkout)
    assert {p: [f.stem for f in files] for p, files in found.items()} == {"multidraft": ["00_x"], "cdpo": ["01_b"], "tvm": ["01_a"], "together": ["90_together"]}
    assert list(found) == ["multidraft", "cdpo", "tvm", "together"]
    assert cli.study_name(checkout, found["together"][0]) == "together/90_together"


def test_only_the_asked_papers_run(checkout):
    put(checkout, "tvm/01_y", COUNT.format("y"))
    assert main(["study", "tvm"]) == 0
    assert count(checkout) == "y"


def test_wrong_requests_exit_2(checkout, capsys):
    for argv, said in ((["study", "alchemy"], "unknown paper 'alchemy'; known: multidraft"), (["bench", "alchemy"], "known: multidraft"), (["study", "--seeds", "0"], "at least 1"),
                       (["study", "--scale", "huge"], "invalid choice"), (["study", "--save"], "scale laptop"), ([], "required"), (["models", "burn"], "invalid choice")):
        with pytest.raises(SystemExit) as e: main(argv)
        assert e.value.code == 2 and said in capsys.readouterr().err


def test_outside_of_a_checkout_it_says_to_clone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOKENSTUDY_HOME", str(tmp_path))
    assert main(["study"]) == 1
    assert "clone" in capsys.readouterr().err


def test_runs_that_cannot_be_written_are_one_line(checkout, capsys):
    (checkout/"runs").write_text("in the way")
    assert main(["study"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("tokenstudy: ")


# ---- the report

def executed(root, name, *cells, **data):
    "Put a notebook and its executed copy, without running it."
    path = put(root, name, *cells)
    nb = cli.source_notebook(path)
    for c in nb.cells:
        if c.cell_type == "code": c.outputs = [nbformat.v4.new_output("display_data", data=data)] if data else []
    nb.metadata["tokenstudy"] = dict(key=cli.study_key(nb), seconds=61.2, date="2026-01-01 00:00 UTC")
    core.atomic_write(cli.copy_path(root, path), cli.notebook_bytes(nb))
    return path


def test_report_needs_nothing_from_outside(checkout):
    executed(checkout, "multidraft/00_x", "# One\n\n![badge](https://img.shields.io/x.svg) <img src='http://example.org/x.png'> [paper](https://arxiv.org/abs/2410.18234) $x^2$", "1",
             **{"text/html": "<b>bold</b>", "application/vnd.jupyter.widget-view+json": {"model_id": "x", "version_major": 2, "version_minor": 0}})
    page = cli.write_report(checkout).read_text()
    assert "Content-Security-Policy" in page and "default-src 'none'" in page
    assert not re.search(r"""<(?:img|script|link|iframe|source|video)[^>]*(?:src|href)=["'](?:https?:)?//""", page)
    assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", page)
    assert 'href="https://arxiv.org/abs/2410.18234"' in page
    assert "A live panel" in page and "model_id" not in page
    assert [m for m in re.findall(r'src="([^"]*)"', page)] in ([], ["mathjax/tex-svg.js"])
    assert (checkout/"runs"/"smoke"/"mathjax"/"tex-svg.js").is_file() == ("mathjax/tex-svg.js" in page)


def test_report_without_mathjax_is_still_one(checkout, monkeypatch):
    def none(name): raise cli.importlib.metadata.PackageNotFoundError(name)
    monkeypatch.setattr(cli.importlib.metadata, "files", none)
    executed(checkout, "multidraft/00_x", "# One $x^2$")
    page = cli.write_report(checkout).read_text()
    assert "$x^2$" in page and "<script" not in page


def test_anchors_are_unique_and_links_stay_inside(checkout):
    executed(checkout, "multidraft/00_x", "# One & only\n\n## The question\n\n[next](01_y.ipynb#The-question), [here](#The-question), [code](../00_core.ipynb)", "a = 1")
    executed(checkout, "multidraft/01_y", "# Two\n\n## The question\n\n[back](../multidraft/00_x.ipynb)", "a = 1")
    page = cli.write_report(checkout).read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and {"multidraft-00_x-the-question", "multidraft-01_y-the-question"} <= set(ids)
    links = re.findall(r'href="#([^"]*)"', page)
    assert set(links) <= {*ids, "top"}
    assert {"multidraft-01_y-the-question", "multidraft-00_x-the-question", "multidraft-00_x"} <= set(links)
    assert 'href="../../nbs/00_core.ipynb"' in page
    assert "One &amp; only</a>" in page


def test_report_shows_what_is_meant_to_be_seen(checkout):
    executed(checkout, "multidraft/00_x", "# One", "#| default_exp x", "#| hide\nsecret = 1", "import os", "#| export\ndef f(x):\n    return x < 1", "#| echo: false\n#| fig-cap: \"What <it> shows\"\nunseen", **{"text/plain": "the output"})
    page = cli.write_report(checkout).read_text()
    assert "secret" not in page and "unseen" not in page and "default_exp" not in page and "#|" not in page
    assert "<summary><code>def f(x):</code></summary>" in page and page.count("the output") == 3
    assert "took 1:01" in page and '<p class="caption">What &lt;it&gt; shows</p>' in page


def test_report_says_what_is_out_of_date(checkout):
    path = executed(checkout, "multidraft/00_x", "# One", "1")
    assert "has changed" not in cli.write_report(checkout).read_text()
    path.write_text(notebook("# One", "2"))
    assert "has changed" in cli.write_report(checkout).read_text()


def test_hostile_text_is_escaped(checkout):
    from tokenstudy.show import against_paper
    executed(checkout, "multidraft/00_x", "# One", "x = '<script>alert(1)</script>'", **{"text/plain": "<script>alert(2)</script> \ud800"})
    against_paper([dict(quantity="<script>alert(3)</script>", paper=1, ours=2)], study="multidraft/<b>", note="<i>")
    page = cli.write_report(checkout).read_text()
    assert "<script>alert" not in page and "<b>" not in page and "<i>" not in page and "alert(3)" in page


def test_tables_are_printed_at_the_end_and_a_broken_one_is_named(checkout, capsys):
    put(checkout, "multidraft/00_x", "# One", "from tokenstudy.show import against_paper", "against_paper([dict(quantity='speed', paper=1.5, ours=1.4)], study='multidraft/x')")
    core.atomic_write(checkout/"runs"/"smoke"/"tables"/"tvm-bad.json", "{")
    assert main(["study"]) == 0
    said = capsys.readouterr()
    assert "multidraft/x\nquantity  paper  ours\n" in said.out and "speed       1.5   1.4" in said.out
    assert "tables/tvm-bad.json cannot be read" in said.err
    assert "tvm-bad.json cannot be read" in report(checkout)


# ---- saving outputs

def test_saved_outputs_are_clean(checkout, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_SCALE", "laptop")
    path = put(checkout, "multidraft/00_x", "# One", "import warnings, os, sys", "warnings.warn('careful')", "os.getcwd(), os.path.expanduser('~'), sys.prefix", "object()",
               "#| eval: false\nkept", "import ipywidgets", "ipywidgets.IntSlider()", "ipywidgets.interact(lambda x: print(x), x=3)", "from IPython.display import Image", "Image(b'x', format='png')")
    nb = json.loads(path.read_text())
    nb["cells"][5]["outputs"] = [dict(output_type="stream", name="stdout", text=["kept output"])]
    path.write_text(json.dumps(nb))
    assert main(["study", "--save"]) == 0
    saved = json.loads(path.read_text())
    text = path.read_text()
    assert all(c.get("execution_count") is None and c["metadata"] == {} for c in saved["cells"])
    assert all(o.get("execution_count") is None for c in saved["cells"] for o in c.get("outputs", []))
    assert not any(word in text for word in (str(checkout), os.path.expanduser("~"), sys.prefix, "widget-view", " at 0x", "2026-"))
    assert "careful" in text and "kept output" in text and saved["metadata"].keys() <= {"kernelspec"}
    assert isinstance(saved["cells"][2]["outputs"][0]["text"], list)
    assert subprocess.run([str(Path(sys.executable).parent/"nbdev-clean"), "--fname", str(path)], capture_output=True).returncode == 0
    assert path.read_text() == text, "as nbdev-clean would leave it"
    assert main(["study", "--save"]) == 0
    assert path.read_text() == text


# ---- time left

def test_time_left_is_honest():
    known = dict(a=10., b=30.)
    assert cli.time_left([], known) == 0
    assert cli.time_left(["a", "b"], known, spent=4) == 36
    assert cli.time_left(["a", "b"], known, spent=400) == 30
    assert cli.time_left(["a", "x"], known) == 20
    assert cli.time_left(["a", "x", "y"], known) is None
    assert [cli.clock(s) for s in (0, 59.4, 61, 3599.6, 36000)] == ["0:00", "0:59", "1:01", "1:00:00", "10:00:00"]


def test_timings_are_kept_and_survive_damage(checkout):
    assert cli._load_timings() == {}
    assert main(["study"]) == 0
    file = checkout/"runs"/"smoke"/"timings.json"
    assert len(cli._load_timings()) == 2
    for text in ("", "[]", '{"a": "x"}'):
        file.write_text(text)
        assert cli._load_timings() == {}


# ---- bench

@pytest.fixture
def bench(monkeypatch):
    module = types.ModuleType("fake_bench")
    module.rows = lambda: iter([core.bench_row("good", 1, 3, "them", "ms", goal=2), core.bench_row("bad", 3, 1, "them", "ms", goal=2), core.bench_row("free", 1, 1, "them", "ms")])
    monkeypatch.setitem(sys.modules, "fake_bench", module)
    monkeypatch.setattr(cli, "BENCHES", {"fake": "fake_bench"})
    return module


def test_bench_marks_rows_under_their_goal(bench, capsys):
    assert main(["bench"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [("UNDER GOAL" in line) for line in lines] == [False, False, True, False]
    assert lines[1].split()[:4] == ["good", "1", "3", "ms"] and lines[1].endswith("against them")


def test_bench_json_is_one_list(bench, capsys):
    assert main(["bench", "fake", "--json"]) == 0
    said = capsys.readouterr()
    assert [r["name"] for r in json.loads(said.out)] == ["good", "bad", "free"] and "good" in said.err


def test_bench_without_its_model_says_so(bench, capsys):
    def rows():
        yield core.bench_row("good", 1, 3, "them", "ms")
        raise core.MissingModelError("no model; get it there")
    bench.rows = rows
    assert main(["bench", "--json"]) == 1
    said = capsys.readouterr()
    assert len(json.loads(said.out)) == 1 and "fake: no model; get it there" in said.err


def test_registered_benches_exist():
    for module in cli.BENCHES.values(): assert cli.importlib.util.find_spec(module)


# ---- models

@pytest.fixture
def models(tmp_path, monkeypatch):
    "An assets folder with one file, and a language model in a state to be set."
    lm = types.ModuleType("tokenstudy.lm")
    lm.state, lm.prepared = "wheel only", []
    lm.lm_status = lambda: [dict(name="smollm2", state=lm.state, detail="a detail\nand the way out")]
    lm.prepare_lm, lm.verify_lm = lm.prepared.append, lambda name: None
    monkeypatch.setitem(sys.modules, "tokenstudy.lm", lm)
    monkeypatch.setattr(tokenstudy, "lm", lm, raising=False)
    monkeypatch.setattr(core, "assets_dir", lambda: tmp_path)
    (tmp_path/"draft.safetensors").write_bytes(b"12345")
    core.add_asset(tmp_path/"draft.safetensors", made_by="tests.make", seed=0)
    return types.SimpleNamespace(lm=lm, asset=tmp_path/"draft.safetensors")


def test_models_lists_what_there_is(models, capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"draft.safetensors +embedded +ok +5e-06 MB +made by tests.make", out) and re.search(r"smollm2 +language model +wheel only +– +a detail$", out, re.MULTILINE)
    models.lm.state = "missing"
    assert main(["models"]) == 0
    assert "and the way out" in capsys.readouterr().err


def test_verify_finds_a_flipped_byte(models, capsys):
    assert main(["models", "verify"]) == 0
    models.asset.write_bytes(b"12346")
    assert main(["models", "verify"]) == 1
    said = capsys.readouterr()
    assert re.search(r"draft.safetensors +embedded +corrupt", said.out) and "git checkout -- tokenstudy/assets" in said.err
    models.asset.unlink()
    assert main(["models", "verify", "draft.safetensors"]) == 1
    assert main(["models", "verify", "smollm2"]) == 0


def test_verify_reads_the_cached_model(models, capsys):
    def damaged(name): raise core.CorruptFileError(f"{name} is damaged; delete it")
    models.lm.state, models.lm.verify_lm = "cached", damaged
    assert main(["models"]) == 0
    assert main(["models", "verify"]) == 1
    assert "smollm2 is damaged; delete it" in capsys.readouterr().err


def test_prepare_converts_once(models, capsys):
    assert main(["models", "prepare"]) == 0 and models.lm.prepared == ["smollm2"]
    models.lm.state = "cached"
    assert main(["models", "prepare", "smollm2"]) == 0 and models.lm.prepared == ["smollm2"]
    models.lm.state = "corrupt"
    assert main(["models", "prepare"]) == 1 and "the way out" in capsys.readouterr().err
    def missing(name): raise core.MissingModelError("install the wheel")
    models.lm.state, models.lm.prepare_lm = "missing", missing
    assert main(["models", "prepare"]) == 1 and "tokenstudy: install the wheel" in capsys.readouterr().err


def test_unknown_model_and_damaged_manifest(models, capsys):
    assert main(["models", "verify", "gpt5"]) == 2
    assert "'gpt5' is not one of draft.safetensors, smollm2" in capsys.readouterr().err
    (models.asset.parent/"MANIFEST.json").write_text("{")
    assert main(["models"]) == 1
    assert "MANIFEST.json" in capsys.readouterr().err


# ---- the command

def test_version_and_help(capsys):
    for argv, said in ((["--version"], "tokenstudy "), (["--help"], "examples:"), (["study", "--help"], "tokenstudy study multidraft --scale smoke"), (["bench", "--help"], "--json"), (["models", "--help"], "verify")):
        with pytest.raises(SystemExit) as e: main(argv)
        assert e.value.code == 0 and said in capsys.readouterr().out
