"""Sources on the Hugging Face hub, as users and sidecars write them: hf:[datasets/]OWNER/NAME[@REVISION]."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = "contextgraft.source.json"  # of an adapter by other programs that was fetched, which has no sidecar

HUB = "hf:"
DATASETS = "datasets/"  # after HUB, before the name of a data set
REPOSITORY_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
HUB_SOURCE = re.compile(
    rf"{HUB}(?P<kind>{DATASETS})?(?P<name>{REPOSITORY_NAME.pattern})(@(?P<revision>[^\s@]+))?", re.ASCII
)
CACHED = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})$")
SCHEME = re.compile(r"(demo|package|hf):")
NAMES = ("_name_or_path", "name_or_path")  # keys in which transformers keeps the path a model was loaded from


def hub_repository(source: object) -> str | None:
    """OWNER/NAME of a source on the hub; None for any other source, or none."""
    match = HUB_SOURCE.fullmatch(source) if isinstance(source, str) else None
    return match["name"] if match else None


def cached_repository(folder: Path) -> dict[str, str]:
    """Name, source and revision of a folder in the cache of huggingface_hub; empty for any other folder."""
    match = CACHED.search(folder.resolve().as_posix())
    if match is None:
        return {}
    repository = f"{match['owner']}/{match['name']}"
    return {"name": match["name"], "source": HUB + repository, "revision": match["commit"]}


def is_local(source: object) -> bool:
    """Whether a source is a path on this machine, which means nothing on another."""
    return isinstance(source, str) and not SCHEME.match(source)


def peft_base(base: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of adapter_config.json that name the base: of the hub OWNER/NAME and the commit, or a name."""
    source, revision = base.get("source"), base.get("revision")
    repository = hub_repository(source)
    if repository is not None:
        return {"base_model_name_or_path": repository, **({"revision": revision} if revision else {})}
    return {"base_model_name_or_path": base["name"] if source is None or is_local(source) else source}


def is_path(value: object) -> bool:
    """Whether a text is a path on some machine: absolute, of a home folder, or relative with dots."""
    return isinstance(value, str) and (value.startswith(("/", "~", "./", "../", "\\")) or value[1:3] == ":\\")


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same config file; where it holds the path from which it was loaded, the name of that folder."""
    return {
        key: value.replace("\\", "/").rstrip("/").rpartition("/")[2]
        if key in NAMES and is_path(value)
        else value
        for key, value in config.items()
    }
