"A draft for nbs/core/01_scales, not collected by pytest: the error for a missing extra."
import contextlib, importlib.metadata, re

from tokenstudy.core import TokenStudyError


#| export
class MissingPackageError(ModuleNotFoundError, TokenStudyError):
    "A package that an extra brings is not installed; the message names the extra."

def missing_package(package: str, # what could not be imported, such as "PIL"
                    module: str, # who asked for it, such as "tokenstudy.brat.inversion"
                   ) -> MissingPackageError | None: # None if no extra brings the package
    """The error for a missing package: the way out is the extra of the asking module's folder if that brings the package,
    else the smallest extra that does.

    >>> print(missing_package("PIL", "tokenstudy.brat.inversion"))
    tokenstudy.brat.inversion needs pillow: pip install 'tokenstudy[brat]'
    """
    def plain(name: str) -> str: return re.sub(r"[-_.]+", "-", name).lower()
    wanted, extras = plain({"PIL": "pillow", "yaml": "pyyaml"}.get(package, package)), {}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):    # a checkout that was never installed
        for line in importlib.metadata.requires("tokenstudy") or []:
            if found := re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)", line):
                extras.setdefault(found[2], []).append(plain(found[1]))
    bringing = sorted((len(held), extra) for extra, held in extras.items() if wanted in held)
    if not bringing: return None
    folder = module.split(".")[1]
    extra = folder if wanted in extras.get(folder, []) else bringing[0][1]
    return MissingPackageError(f"{module} needs {wanted}: pip install 'tokenstudy[{extra}]'", name=package)
