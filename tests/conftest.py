"Settings of the whole suite (smoke scale, no bars, fixed examples), the scratch copy of the project and the toy checkout that several tests work on."
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# before anything imports numpy, torch or matplotlib, and inherited by every process the tests start
os.environ.update(TOKENSTUDY_SCALE="smoke", TOKENSTUDY_PROGRESS="off", MPLBACKEND="Agg", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    if "PYTEST_XDIST_WORKER" in os.environ: os.environ[name] = "1"      # one of several processes on the same cores
    else: os.environ.setdefault(name, "2")
for name in ("TOKENSTUDY_HOME", "TOKENSTUDY_SEEDS", "TOKENSTUDY_SETTINGS", "IN_TEST"): os.environ.pop(name, None)

import nbformat
from filelock import FileLock
from hypothesis import HealthCheck, settings

settings.register_profile("suite", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "_proc", "_site", "runs", "build", "dist", "*.egg-info", "__pycache__",
                                  ".pytest_cache", ".hypothesis", ".ipynb_checkpoints")


def named(value) -> str:
    "The name of a case that is the same in every process: what `str` says, without addresses."
    return re.sub(" at 0x[0-9A-Fa-f]+", "", str(value))


def run(*command, cwd: Path, timeout: float = 900, **env) -> subprocess.CompletedProcess:
    "Run a command with the environment's scripts first on the path and `cwd` as the project; its output is one text."
    bin = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(cwd), **env}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=env, timeout=timeout, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def copy_project(target: Path) -> Path:
    "A copy of the project without git, environment, runs and builds."
    return Path(shutil.copytree(ROOT, target, ignore=LEFT_OUT))


PACKAGES = [f"tokenstudy.{name}" for name in ("core", "lm", "reasoning", "multidraft", "brat", "cdpo", "tvm", "app")]


@pytest.fixture(autouse=True)
def front_doors_forget():
    "A package keeps what it was once asked for; forgotten here, so that a function that a test replaces in its module is seen through the front door."
    for package in filter(None, map(sys.modules.get, PACKAGES)):
        for name in set(getattr(package, "__all__", ())) & vars(package).keys():
            if not isinstance(vars(package)[name], type(sys)): delattr(package, name)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory) -> Path:
    "One copy of the project for the session, for what writes into it: notebooks run at smoke scale, a JupyterLab, a wheel."
    return copy_project(tmp_path_factory.mktemp("project")/"tokenstudy")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    "The documentation site, built without warnings, from the outputs stored in the notebooks: once for all processes of the suite."
    base = tmp_path_factory.getbasetemp()
    home = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(home/"site.lock"):
        project = home/"docs"/"tokenstudy"
        if not project.exists():
            copy_project(project)
            for command in (["docs/convert.py"], ["-m", "sphinx", "-W", "--keep-going", "-q", "build/docs", "_site"]):
                made = run(sys.executable, *command, cwd=project)
                (project/"site.log").write_text(f"{command}\n{made.stdout[-4000:]}" if made.returncode else "", encoding="utf-8")
                if made.returncode: break
        said = (project/"site.log").read_text(encoding="utf-8")
    assert not said, f"the site cannot be built, or with warnings:\n{said}"
    return project/"_site"


COUNT = "from pathlib import Path\nwith Path('../../count').open('a') as f: f.write('{}')"


def notebook(*cells) -> str:
    "A notebook from sources; those that start with '# ' are Markdown."
    made = [nbformat.v4.new_markdown_cell(c, id=f"c{i}") if c.startswith("# ") else nbformat.v4.new_code_cell(c, id=f"c{i}") for i, c in enumerate(cells)]
    return nbformat.writes(nbformat.v4.new_notebook(cells=made))


def put(root, name, *cells):
    path = root/"nbs"/f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebook(*cells))
    return path


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    "A toy checkout with one paper of one notebook, whose runs are counted by letters in the file `count`."
    from tokenstudy.app import notebooks
    root = tmp_path/"checkout"
    (root/"nbs"/"multidraft").mkdir(parents=True)
    (root/"settings.ini").touch()
    (root/"count").touch()
    monkeypatch.setenv("TOKENSTUDY_HOME", str(root))
    monkeypatch.delenv("TOKENSTUDY_SEEDS", raising=False)
    monkeypatch.setattr(notebooks, "library_hash", lambda: "as it is")
    put(root, "multidraft/00_x", "# The toy\n\n## The question\n\nIs $6 \\cdot 7$ what we think?", COUNT.format("a"), "#| export\n6 * 7")
    return root
