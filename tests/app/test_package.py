"The package as others get it: metadata that agree, a light import, a wheel with its assets and licence."
import ast
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from email import message_from_string

import pytest
import yaml

from conftest import ROOT, run


@pytest.fixture(scope="module")
def settings():
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(scratch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    made = run(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", folder, cwd=scratch)
    assert made.returncode == 0, made.stdout[-3000:]
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def metadata(wheel):
    "The wheel's own metadata, which an editable installation may lag behind."
    with zipfile.ZipFile(wheel) as held:
        [name] = [name for name in held.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(held.read(name).decode())


def names(text: str) -> list:
    "Names of the requirements in one entry of settings.ini, normalised."
    return [re.split(r"[\[<>=!~; ]", line.strip())[0].lower().replace("_", "-") for line in text.splitlines() if line.strip()]


def test_settings_and_pyproject_agree(settings, project):
    assert project["project"]["name"] == settings["lib_name"]
    assert project["project"]["requires-python"] == f">={settings['min_python']}"
    nbdev = project["tool"]["nbdev"]
    assert {key: str(nbdev[key]).lower() for key in ("title", "lib_path", "nbs_path", "doc_path", "recursive", "tst_flags")} == \
           {key: settings[key].lower() for key in ("title", "lib_path", "nbs_path", "doc_path", "recursive", "tst_flags")}


def test_one_version(settings, project, metadata):
    init = ast.parse((ROOT/"tokenstudy/__init__.py").read_text(encoding="utf-8"))
    [version] = [node.value.value for node in init.body if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"]
    citation = yaml.safe_load((ROOT/"CITATION.cff").read_text(encoding="utf-8"))
    assert version == settings["version"] == citation["version"] == metadata["Version"]
    assert citation["license"] == settings["license"] == metadata["License-Expression"]
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]


def test_every_requirement_is_pinned_and_installable_without_gpu_wheels(settings):
    lines = (ROOT/"constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(re.fullmatch(r"([\w.-]+)==([\w.!+]+)", line).groups() for line in lines if line and not line.startswith("#"))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    wanted = [name for group in ("requirements", "dev_requirements", "docs_requirements", "cluster_requirements") for name in names(settings[group])]
    assert [name for name in wanted if name not in pinned] == []
    assert [version for version in pinned.values() if "+" in version] == []
    assert pinned["torch"] == "2.13.0" and pinned["nbdev"] == "3.3.26"


def test_extras(settings, metadata):
    assert set(metadata.get_all("Provides-Extra")) == {"dev", "docs", "cluster"}
    needed = "\n".join(line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line)
    assert names(needed) == names(settings["requirements"])


def test_import_is_light(tmp_path):
    code = "import sys, tokenstudy; print([name for name in ('torch', 'transformers', 'diffusers', 'matplotlib', 'numba', 'scipy') if name in sys.modules])"
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout.strip() == "[]"


def test_foundations_import_nothing_heavy():
    code = ("import sys, tokenstudy.core, tokenstudy.show, tokenstudy.cli;"
            "print([name for name in ('torch', 'transformers', 'diffusers', 'matplotlib') if name in sys.modules])")
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout.strip() == "[]"


def test_modules_start_nothing_dangerous():
    "No pickle, eval, remote code or shell in what is installed."
    forbidden = re.compile(r"\bimport pickle\b|pickle\.load|trust_remote_code\s*=\s*True|weights_only\s*=\s*False|shell\s*=\s*True|(?<![\w.])(?:eval|exec)\(")
    assert [(p.name, m.group()) for p in (ROOT/"tokenstudy").rglob("*.py") for m in forbidden.finditer(p.read_text(encoding="utf-8"))] == []


def test_wheel_holds_modules_assets_and_licence(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    package = [p.relative_to(ROOT).as_posix() for p in (ROOT/"tokenstudy").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert [name for name in package if name not in held] == []
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert not [name for name in held if name.split("/")[0] in ("tests", "nbs", "docs", "results")]


def test_installed_wheel_imports_and_finds_its_assets(wheel, tmp_path):
    target, elsewhere = tmp_path/"installed", tmp_path/"elsewhere"
    elsewhere.mkdir()
    done = run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel, cwd=elsewhere)
    assert done.returncode == 0, done.stdout[-3000:]
    code = ("import json, tokenstudy.core as core; from importlib.resources import files; "
            "listed = json.loads((files('tokenstudy')/'assets'/'MANIFEST.json').read_text(encoding='utf-8')); "
            "print(core.__file__); print(json.dumps({name: str(core.asset(name)) for name in listed}))")
    done = run(sys.executable, "-c", code, cwd=elsewhere, PYTHONPATH=str(target))
    assert done.returncode == 0, done.stdout[-3000:]
    place, found = done.stdout.strip().splitlines()
    assert place.startswith(str(target))
    for name, file in json.loads(found).items():
        assert file.startswith(str(target))
        assert hashlib.sha256(open(file, "rb").read()).hexdigest() == json.loads((ROOT/"tokenstudy/assets/MANIFEST.json").read_text(encoding="utf-8"))[name]["sha256"]


def test_assets_are_listed_small_and_have_a_licence():
    folder = ROOT/"tokenstudy/assets"
    listed = json.loads((folder/"MANIFEST.json").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != "MANIFEST.json")
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 60e6
    assert all(entry.keys() >= {"sha256", "size", "made_by", "licence"} and entry["licence"] for entry in listed.values())


def test_makefile_offers_what_the_readme_says():
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("make ")] == ["study", "test", "lab", "docs", "bench", "export", "clean"]
    readme = (ROOT/"README.md").read_text(encoding="utf-8")
    assert 0 < readme.index("make study") < readme.index("make test") and set(re.findall(r"`make (\w+)`", readme)) <= set(re.findall(r"^make (\w+)", shown, re.MULTILINE))
