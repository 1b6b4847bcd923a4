"Package metadata: everything comes from settings.ini."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

root = Path(__file__).parent
parser = ConfigParser(interpolation=None)
parser.read(root/"settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]


def lines(key: str) -> list[str]:
    "The non-empty lines of one entry of settings.ini."
    return [line.strip() for line in settings[key].splitlines() if line.strip()]


status = {"3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}[settings["status"]]
docs = lines("docs_requirements")
readme = root/"README.md"

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else settings["description"],
    long_description_content_type="text/markdown",
    keywords=[word.strip() for word in settings["keywords"].split(",")],
    author=settings["author"],
    license_expression=settings["license"],
    license_files=["LICENSE"],
    classifiers=[
        f"Development Status :: {status}",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        f"Programming Language :: Python :: {settings['min_python']}",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=f">={settings['min_python']}",
    packages=find_packages(include=[settings["lib_path"], f"{settings['lib_path']}.*"]),
    package_data={settings["lib_path"]: ["assets/*"]},
    install_requires=lines("requirements"),
    extras_require={
        "dev": lines("dev_requirements") + docs,
        "docs": docs,
        "cluster": lines("cluster_requirements"),
    },
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": [f"{settings['lib_path']}={settings['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
