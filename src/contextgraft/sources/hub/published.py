"""Small JSON files as they are published: without paths of the machine on which they were made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.atomic import json_text
from contextgraft.checkpoint.digest import hasher
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, read_json
from contextgraft.formats.hub_source import is_local, peft_base, without_paths
from contextgraft.formats.model_card.licence import CARD
from contextgraft.formats.peft import ADAPTER_CONFIG
from contextgraft.formats.sidecar import SIDECAR

CONFIGS = (MODEL_CONFIG, "tokenizer_config.json", "generation_config.json")


def published_files(folder: Path, names: list[str], sidecar: Mapping[str, Any]) -> dict[str, bytes]:
    """The new content of the files that are not published as they are, those in subfolders too.

    adapter_config.json names the base as the sidecar in its folder does; paths in configs become the names
    of their folders, those in sidecars are removed; the sidecar lists the new sizes and digests, without
    README.md: the card that is published is another.
    """
    inner = [name for name in names if Path(name).name == SIDECAR and name != SIDECAR]
    records = {Path(): sidecar, **{Path(name).parent: read_json(folder / name) for name in inner}}
    changed = _published_configs(folder, names, records)
    for parent, before in records.items():
        after = _without_sources(before)
        files = after.get("files")
        if parent == Path() and isinstance(files, dict):
            facts = {name: _facts(data) for name, data in changed.items() if name in files}
            after["files"] = {name: value for name, value in (files | facts).items() if name != CARD}
        if after != before:
            changed[(parent / SIDECAR).as_posix()] = json_text(after).encode()
    return changed


def _published_configs(
    folder: Path, names: list[str], records: Mapping[Path, Mapping[str, Any]]
) -> dict[str, bytes]:
    """The new content of configs; `records` are the sidecars by their folder."""
    changed: dict[str, bytes] = {}
    for name in names:
        path = Path(name)
        if path.name not in (*CONFIGS, ADAPTER_CONFIG):
            continue
        before = read_json(folder / name)
        after = without_paths(before)
        base = records.get(path.parent, {}).get("base")
        if path.name == ADAPTER_CONFIG and isinstance(base, Mapping):
            after |= peft_base(base)
        if after != before:
            changed[name] = json_text(after).encode()
    return changed


def _without_sources(value: Any) -> Any:
    """The same record; sources that are paths are null, and recipes name files of absolute paths only."""
    if isinstance(value, list):
        return [_without_sources(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: None
        if key == "source" and is_local(item)
        else _file_names(item)
        if key == "recipe"
        else _without_sources(item)
        for key, item in value.items()
    }


def _file_names(value: Any) -> Any:
    """The same recipe; of paths that are not relative to it, the last name."""
    if isinstance(value, list):
        return [_file_names(item) for item in value]
    if isinstance(value, dict):
        return {key: _file_names(item) for key, item in value.items()}
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _facts(data: bytes) -> dict[str, Any]:
    digest = hasher()
    digest.update(data)
    return {"bytes": len(data), "digest": digest.hexdigest()}
