"Package metadata: everything comes from settings.ini."
import posixpath
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
parser = ConfigParser(interpolation=None)
parser.read(root/"settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]

STATUS = {"3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}
PICTURE = (".png", ".svg", ".gif", ".jpg", ".jpeg", ".webp")
LINK = re.compile(r"""(?P<before>\]\(|\b(?:src|srcset|href)=["'])(?!\w+:|#|//)(?P<target>[^)\s"']+)""")


def lines(key: str) -> list[str]:
    "The non-empty lines of one entry of settings.ini."
    return [line.strip() for line in settings[key].splitlines() if line.strip()]


def extra(name: str, above: tuple = ()) -> list[str]:
    "Requirements of an extra; a line such as tokenstudy[lm] stands for all those of that extra."
    if name in above: raise ValueError(f"settings.ini: the extra {name} includes itself ({' > '.join((*above, name))})")
    found = []
    for line in lines(f"{name}_requirements"):
        other = re.fullmatch(rf"{settings['lib_name']}\[([\w-]+)\]", line)
        found += extra(other[1], (*above, name)) if other else [line]
    return list(dict.fromkeys(found))


def address(target: str, kind: str = "blob") -> str:
    "The address of a file of the project in its public repository; `kind` is raw for a picture."
    path = posixpath.normpath(target)
    return settings["repository"] if path == "." else f"{settings['repository']}/{kind}/{settings['branch']}/{path}"


def absolute(text: str) -> str:
    "Markdown whose links and pictures point into the repository, outside of blocks of code."
    def moved(link: re.Match) -> str:
        target = link["target"]
        picture = target.lower().endswith(PICTURE)
        return link["before"] + address(target, "raw" if picture else "blob")

    parts = re.split(r"(^```.*?^```[^\S\n]*$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if i % 2 else LINK.sub(moved, part) for i, part in enumerate(parts))


def urls() -> dict[str, str]:
    "The project's links."
    named = dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in lines("urls"))
    pages = {"issues": f"{settings['repository']}/issues"}       # not a file
    return {name: url if "://" in url else pages.get(url) or address(url) for name, url in named.items()}


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=absolute((root/"README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    keywords=[word.strip() for word in settings["keywords"].split(",")],
    author=settings["author"],
    license_expression=settings["license"],
    license_files=["LICENSE"],
    project_urls=urls(),
    classifiers=[
        f"Development Status :: {STATUS[settings['status']]}",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: {version}" for version in settings["python_versions"].split()),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=f">={settings['min_python']}",
    packages=find_packages(include=[settings["lib_path"], f"{settings['lib_path']}.*"]),
    package_data={settings["lib_path"]: ["py.typed", "assets/*"]},
    install_requires=lines("requirements"),
    extras_require={key.removesuffix("_requirements"): extra(key.removesuffix("_requirements"))
                    for key in settings if key.endswith("_requirements")},
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": [f"{settings['lib_path']}={settings['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
