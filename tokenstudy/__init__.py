"""Four papers about single tokens, reimplemented, tested and measured again.

`multidraft`, `brat`, `cdpo` and `tvm` hold one paper each; `core`, `lm` and `reasoning` what they
share; `app` the command line. A package is imported when it is asked for:
`from tokenstudy.multidraft import Optimal`."""
import sys

import lazy_loader

_package, __dir__, __all__ = lazy_loader.attach(
    __name__, ["core", "lm", "reasoning", "multidraft", "brat", "cdpo", "tvm", "app"])


def _version() -> str:
    "The version of this code: that of the checkout it lies in, else that of the installed package."
    from configparser import ConfigParser
    from importlib.metadata import version
    from pathlib import Path
    found = ConfigParser(interpolation=None)
    found.read(Path(__file__).parents[1]/"settings.ini", encoding="utf-8")
    ours = found.defaults().get("lib_name") == __name__
    return found.defaults()["version"] if ours else version(__name__)


def __getattr__(name: str):
    "A package, or `__version__`."
    return _version() if name == "__version__" else _package(name)


class _Explaining:
    "The last finder: where an import of ours fails, the error names the extra that it needs."
    @staticmethod
    def find_spec(name, path=None, target=None):
        frame = sys._getframe(1)
        machinery = "importlib._bootstrap", "_frozen_importlib", "importlib"
        while frame and frame.f_globals.get("__name__") in machinery: frame = frame.f_back
        # "importlib.util" where somebody only looks whether a package is there
        module = frame.f_globals.get("__name__", "") if frame else ""
        if path is None and module.startswith(f"{__name__}."):
            from .core.scales import missing_package
            if error := missing_package(name, module): raise error


if not any(type(finder).__name__ == "_Explaining" for finder in sys.meta_path):
    sys.meta_path.append(_Explaining())
