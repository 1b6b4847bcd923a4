"study: what is finished is kept, what changed is redone, what fails is said; on a toy checkout, with real kernels."
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest

from conftest import COUNT, notebook, put
from tokenstudy import core
from tokenstudy.app import notebooks, report as reports, study
from tokenstudy.app.commands import main


def count(root): return (root/"count").read_text()
def report(root): return (root/"runs"/"smoke"/"report.html").read_text()


def outputs(path) -> str:
    "All texts of a notebook's outputs."
    cells = json.loads(Path(path).read_text())["cells"]
    return "".join("".join(o.get("text", [])) + "".join(o.get("data", {}).get("text/plain", [])) for c in cells for o in c.get("outputs", []))


# ---- run, resume, redo

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
    assert len(records) == 0 and records.path.with_name("toy.sqlite.old").exists()


def test_what_changes_the_outputs_changes_the_key(checkout, monkeypatch):
    path = checkout/"nbs"/"multidraft"/"00_x.ipynb"
    nb = notebooks.source_notebook(path)
    keys = [notebooks.study_key(nb)]
    nb.cells[2].outputs = [nbformat.v4.new_output("stream", text="stored")]
    nb.metadata["widgets"] = {}
    assert notebooks.study_key(nb) == keys[0]
    nb.cells[0].source += " More prose."
    keys.append(notebooks.study_key(nb))
    for name, value in (("TOKENSTUDY_SCALE", "laptop"), ("TOKENSTUDY_SEEDS", "3"), ("TOKENSTUDY_SETTINGS", '{"K": 2}')):
        monkeypatch.setenv(name, value)
        keys.append(notebooks.study_key(nb))
    monkeypatch.setattr(notebooks, "library_hash", lambda: "edited")
    keys.append(notebooks.study_key(nb))
    assert len(set(keys)) == len(keys)


def test_reported_library_hash_sees_every_module_and_the_assets(tmp_path, monkeypatch):
    for name in ("sub", "assets"): (tmp_path/name).mkdir()
    monkeypatch.setattr(notebooks.importlib.resources, "files", lambda _: tmp_path)
    seen = {notebooks.library_hash()}
    for name, text in (("a.py", "1"), ("a.py", "2"), ("sub/b.py", "1"), ("assets/MANIFEST.json", "{}"), ("assets/MANIFEST.json", "{ }")):
        (tmp_path/name).write_text(text)
        seen.add(notebooks.library_hash())
    assert len(seen) == 6
    (tmp_path/"notes.txt").touch()
    assert notebooks.library_hash() in seen


@pytest.mark.parametrize("damage", [lambda text: text[:len(text)//2], lambda text: "", lambda text: "[]", lambda text: text.replace('"key"', '"kay"')], ids=["cut", "empty", "list", "no key"])
def test_damaged_executed_copy_is_made_again(checkout, damage):
    copy = checkout/"runs"/"smoke"/"notebooks"/"multidraft"/"00_x.ipynb"
    path = checkout/"nbs"/"multidraft"/"00_x.ipynb"
    nb = notebooks.source_notebook(path)
    nb.metadata["tokenstudy"] = dict(key=notebooks.study_key(nb))
    core.atomic_write(copy, notebooks.notebook_bytes(nb))
    assert notebooks.finished_copy(checkout, path)
    copy.write_text(damage(copy.read_text()))
    assert notebooks.finished_copy(checkout, path) is None


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
    command = [sys.executable, "-m", "tokenstudy.app.commands", "study", "multidraft", "--scale", "smoke"]
    # a shell that starts the tests in the background leaves SIGINT ignored: undo that in the child
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        while not (checkout/"pid").exists() and running.poll() is None: time.sleep(.05)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "1 of 2 notebooks are finished and kept" in err and "Go on with the same command, or: tokenstudy study multidraft --scale smoke" in err and "Traceback" not in err
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


# ---- which notebooks

def test_papers_come_in_reading_order(checkout):
    for name in ("tvm/01_a", "cdpo/01_b", "multidraft/09_bench", "multidraft/_draft", "other/01_c", "together/01_views", "11_x"): put(checkout, name, "1")
    (checkout/"nbs"/"brat").mkdir()
    found = notebooks.find_studies(checkout)
    assert {p: [f.stem for f in files] for p, files in found.items()} == {"multidraft": ["00_x"], "cdpo": ["01_b"], "tvm": ["01_a"], "together": ["01_views"]}
    assert list(found) == ["multidraft", "cdpo", "tvm", "together"]
    assert notebooks.study_name(checkout, found["together"][0]) == "together/01_views"


def test_only_the_asked_papers_run(checkout):
    put(checkout, "tvm/01_y", COUNT.format("y"))
    assert main(["study", "tvm"]) == 0
    assert count(checkout) == "y"


# ---- the report

def executed(root, name, *cells, **data):
    "Put a notebook and its executed copy, without running it."
    path = put(root, name, *cells)
    nb = notebooks.source_notebook(path)
    for c in nb.cells:
        if c.cell_type == "code": c.outputs = [nbformat.v4.new_output("display_data", data=data)] if data else []
    nb.metadata["tokenstudy"] = dict(key=notebooks.study_key(nb), seconds=61.2, date="2026-01-01 00:00 UTC")
    core.atomic_write(notebooks.copy_path(root, path), notebooks.notebook_bytes(nb))
    return path


def test_report_needs_nothing_from_outside(checkout):
    executed(checkout, "multidraft/00_x", "# One\n\n![badge](https://img.shields.io/x.svg) <img src='http://example.org/x.png'> [paper](https://arxiv.org/abs/2410.18234) $x^2$", "1",
             **{"text/html": "<b>bold</b>", "application/vnd.jupyter.widget-view+json": {"model_id": "x", "version_major": 2, "version_minor": 0}})
    page = reports.write_report(checkout).read_text()
    assert "Content-Security-Policy" in page and "default-src 'none'" in page
    assert not re.search(r"""<(?:img|script|link|iframe|source|video)[^>]*(?:src|href)=["'](?:https?:)?//""", page)
    assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", page)
    assert 'href="https://arxiv.org/abs/2410.18234"' in page
    assert "A live panel" in page and "model_id" not in page
    assert [m for m in re.findall(r'src="([^"]*)"', page)] in ([], ["mathjax/tex-svg.js"])
    assert (checkout/"runs"/"smoke"/"mathjax"/"tex-svg.js").is_file() == ("mathjax/tex-svg.js" in page)


def test_report_without_mathjax_is_still_one(checkout, monkeypatch):
    def none(name): raise reports.importlib.metadata.PackageNotFoundError(name)
    monkeypatch.setattr(reports.importlib.metadata, "files", none)
    executed(checkout, "multidraft/00_x", "# One $x^2$")
    page = reports.write_report(checkout).read_text()
    assert "$x^2$" in page and "<script" not in page


def test_anchors_are_unique_and_links_stay_inside(checkout):
    executed(checkout, "multidraft/00_x", "# One & only\n\n## The question\n\n[next](01_y.ipynb#The-question), [here](#The-question), [code](../00_core.ipynb)", "a = 1")
    executed(checkout, "multidraft/01_y", "# Two\n\n## The question\n\n[back](../multidraft/00_x.ipynb)", "a = 1")
    page = reports.write_report(checkout).read_text()
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and {"multidraft-00_x-the-question", "multidraft-01_y-the-question"} <= set(ids)
    links = re.findall(r'href="#([^"]*)"', page)
    assert set(links) <= {*ids, "top"}
    assert {"multidraft-01_y-the-question", "multidraft-00_x-the-question", "multidraft-00_x"} <= set(links)
    assert 'href="../../nbs/00_core.ipynb"' in page
    assert "One &amp; only</a>" in page


def test_report_shows_what_is_meant_to_be_seen(checkout):
    executed(checkout, "multidraft/00_x", "# One", "#| default_exp x", "#| hide\nsecret = 1", "import os", "#| export\ndef f(x):\n    return x < 1", "#| echo: false\n#| fig-cap: \"What <it> shows\"\nunseen", **{"text/plain": "the output"})
    page = reports.write_report(checkout).read_text()
    assert "secret" not in page and "unseen" not in page and "default_exp" not in page and "#|" not in page
    assert "<summary><code>def f(x):</code></summary>" in page and page.count("the output") == 3
    assert "took 1:01" in page and '<p class="caption">What &lt;it&gt; shows</p>' in page


@pytest.mark.parametrize("source, found", [("#| export\n#| echo: false\nx = 1", dict(export="", echo="false")), ("#|eval:False", dict(eval="False")), ("#| export\n\nx: 1", dict(export="")),
                                           ("x = 1 # | y: 2", {}), ("#| fig-cap: \"a: b\"\n", {"fig-cap": '"a: b"'})])
def test_directives_are_read_line_by_line(source, found):
    assert notebooks.directives(nbformat.v4.new_code_cell(source)) == found
    assert notebooks.directives(nbformat.v4.new_markdown_cell(source)) == {}


def test_report_says_what_is_out_of_date(checkout):
    path = executed(checkout, "multidraft/00_x", "# One", "1")
    assert "has changed" not in reports.write_report(checkout).read_text()
    path.write_text(notebook("# One", "2"))
    assert "has changed" in reports.write_report(checkout).read_text()


def test_hostile_text_is_escaped(checkout):
    from tokenstudy.core.show import against_paper
    executed(checkout, "multidraft/00_x", "# One", "x = '<script>alert(1)</script>'", **{"text/plain": "<script>alert(2)</script> \ud800"})
    against_paper([dict(quantity="<script>alert(3)</script>", paper=1, ours=2)], study="multidraft/bold", note="<i>")
    table = checkout/"runs"/"smoke"/"tables"/"multidraft+bold.json"
    table.write_text(table.read_text().replace("multidraft/bold", "multidraft/<b>"))
    page = reports.write_report(checkout).read_text()
    assert "<script>alert" not in page and "<b>" not in page and "<i>" not in page and "alert(3)" in page


def test_tables_are_printed_at_the_end_and_a_broken_one_is_named(checkout, capsys):
    put(checkout, "multidraft/00_x", "# One", "from tokenstudy.core.show import against_paper", "against_paper([dict(quantity='speed', paper=1.5, ours=1.4)], study='multidraft/x')")
    core.atomic_write(checkout/"runs"/"smoke"/"tables"/"tvm-bad.json", "{")
    assert main(["study"]) == 0
    said = capsys.readouterr()
    assert "multidraft/x\nquantity  paper  ours\n" in said.out and "speed       1.5   1.4" in said.out
    assert "tables/tvm-bad.json cannot be read" in said.err
    assert "tvm-bad.json cannot be read" in report(checkout)


# ---- what cannot be written is said before the first cell

def test_reported_full_disks_and_files_in_the_way_are_said_before_a_notebook_runs(checkout, monkeypatch, capsys):
    import shutil
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(place)._replace(free=1e5))
    assert main(["study"]) == 1 and "runs/smoke (1 MB are needed there, and 0.1 MB are free)" in capsys.readouterr().err
    with pytest.raises(core.TokenStudyError, match="cannot write"):
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(place)._replace(free=-1))
        reports.write_report(checkout)
    monkeypatch.setattr(shutil, "disk_usage", usage)
    (checkout/"results").write_text("in the way")
    assert main(["study", "--save"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("tokenstudy: cannot write to ") and "results is not a folder" in said[0] and "TOKENSTUDY_HOME" in said[0]
    (checkout/"results").unlink()
    (checkout/"runs").write_text("in the way")
    assert main(["study"]) == 1 and "runs is not a folder" in capsys.readouterr().err
    assert count(checkout) == ""


def test_reported_killed_studies_leave_no_folders_of_sockets(checkout, tmp_path, monkeypatch):
    put(checkout, "multidraft/00_x", "# One", COUNT.format("a"), "import time; time.sleep(60)")
    place = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))      # sockets need a short path
    killed = subprocess.Popen([sys.executable, "-m", "tokenstudy.app.commands", "study"], env=os.environ | dict(TMPDIR=str(place)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if count(checkout) == "a": break
        time.sleep(.1)
    assert list(place.glob(".tokenstudy.*"))
    killed.kill()
    killed.wait()
    folder = checkout/"runs"/"smoke"/"notebooks"/"multidraft"
    folder.mkdir(parents=True, exist_ok=True)
    (folder/".00_gone.ipynb.0123456789ab.partial").write_text("half a copy of a notebook that has another name now")
    put(checkout, "multidraft/00_x", "# One", "42")
    monkeypatch.setattr("tempfile.tempdir", str(place))
    assert main(["study"]) == 0 and not list(place.glob(".tokenstudy.*")) and not list(checkout.rglob("*.partial"))
    place.rmdir()


def test_a_deep_folder_for_temporary_files_is_no_hindrance(checkout, tmp_path, monkeypatch):
    put(checkout, "multidraft/00_x", "# One", "42")
    deep = tmp_path/("d"*60)/("e"*60)
    deep.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    assert main(["study"]) == 0 and not list(deep.iterdir())


# ---- saving outputs

def test_saved_outputs_are_clean(checkout, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_SCALE", "laptop")
    path = put(checkout, "multidraft/00_x", "# One", "import warnings, os, sys", "warnings.warn('noisy'); print('careful')", "os.getcwd(), os.path.expanduser('~'), sys.prefix", "object()",
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
    assert "noisy" not in json.dumps([c.get("outputs") for c in saved["cells"]]), "what went to stderr stays away"
    assert subprocess.run([str(Path(sys.executable).parent/"nbdev-clean"), "--fname", str(path)], capture_output=True).returncode == 0
    assert path.read_text() == text, "as nbdev-clean would leave it"
    assert main(["study", "--save"]) == 0
    assert path.read_text() == text


def test_what_was_run_with_other_settings_is_not_saved(checkout, monkeypatch):
    monkeypatch.setenv("TOKENSTUDY_SETTINGS", '{"K": 2}')
    with pytest.raises(core.TokenStudyError, match="TOKENSTUDY_SETTINGS.*not scale"): study.run_study(["multidraft"], save=True)
    assert (checkout/"count").read_text() == ""


def test_saved_records_are_published_and_never_shrink(checkout):
    put(checkout, "multidraft/00_x", "# One", "from tokenstudy import core", "for seed in core.seeds(1): core.Runs('multidraft/y')(dict(seed=seed), lambda: seed)")
    before = (checkout/"nbs/multidraft/00_x.ipynb").read_text()
    assert main(["study", "--seeds", "2"]) == 0 and core.published("multidraft/y", "smoke") == []
    assert main(["study", "--seeds", "2", "--save"]) == 0
    assert [r["config"]["seed"] for r in core.published("multidraft/y", "smoke")] == [0, 1]
    assert (checkout/"nbs/multidraft/00_x.ipynb").read_text() == before, "outputs are kept at scale laptop only"
    (checkout/"runs/smoke/multidraft/y.sqlite").unlink()
    assert main(["study", "--seeds", "1", "--fresh", "--save"]) == 0
    assert len(core.published("multidraft/y", "smoke")) == 2


def test_saved_records_of_other_settings_do_not_replace_published_ones(checkout, capfd):
    "As many units, but others: the published file stays, and a line says so; with those units among more, it grows."
    def run(numbers):
        put(checkout, "multidraft/00_x", "# One", "from tokenstudy import core", f"for n in {numbers}: core.Runs('multidraft/y')(dict(count=n), lambda: n)")
        (checkout/"runs/smoke/multidraft/y.sqlite").unlink(missing_ok=True)
        assert main(["study", "--fresh", "--save"]) == 0
        return [r["config"]["count"] for r in core.published("multidraft/y", "smoke")]
    assert run([500, 501]) == [500, 501]
    capfd.readouterr()
    assert run([48, 500]) == [500, 501] and "of its 2 units 1 were not run here" in capfd.readouterr().err
    assert run([500, 501, 48]) == [500, 501, 48]


# ---- time left

def test_time_left_is_honest():
    known = dict(a=10., b=30.)
    assert notebooks.time_left([], known) == 0
    assert notebooks.time_left(["a", "b"], known, spent=4) == 36
    assert notebooks.time_left(["a", "b"], known, spent=400) == 30
    assert notebooks.time_left(["a", "x"], known) == 20
    assert notebooks.time_left(["a", "x", "y"], known) is None
    assert [notebooks.clock(s) for s in (0, 59.4, 61, 3599.6, 36000)] == ["0:00", "0:59", "1:01", "1:00:00", "10:00:00"]


def test_timings_are_kept_and_survive_damage(checkout):
    assert notebooks.load_timings() == {}
    assert main(["study"]) == 0
    file = checkout/"runs"/"smoke"/"timings.json"
    assert len(notebooks.load_timings()) == 2
    for text in ("", "[]", '{"a": "x"}'):
        file.write_text(text)
        assert notebooks.load_timings() == {}
