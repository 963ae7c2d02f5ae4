"""Small JSON files as they are published: without paths of the machine on which they were made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.atomic import json_text
from contextgraft.checkpoint.digest import hasher
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, read_json
from contextgraft.formats.hub_source import is_local, peft_base, without_paths
from contextgraft.formats.peft import ADAPTER_CONFIG
from contextgraft.formats.sidecar import SIDECAR

CONFIGS = (MODEL_CONFIG, "tokenizer_config.json", "generation_config.json")


def published_files(folder: Path, names: list[str], sidecar: Mapping[str, Any]) -> dict[str, bytes]:
    """The new content of the files that are not published as they are.

    adapter_config.json names the base as the sidecar does; paths in configs become the names of their
    folders, those in the sidecar are removed; the sidecar lists the new sizes and digests.
    """
    changed: dict[str, bytes] = {}
    for name in names:
        if name in CONFIGS or name == ADAPTER_CONFIG:
            before = read_json(folder / name)
            after = without_paths(before)
            if name == ADAPTER_CONFIG and isinstance(sidecar.get("base"), Mapping):
                after |= peft_base(sidecar["base"])
            if after != before:
                changed[name] = json_text(after).encode()
    record = _without_sources(dict(sidecar))
    files = record.get("files")
    if isinstance(files, dict):
        record["files"] = files | {name: _facts(data) for name, data in changed.items() if name in files}
    if record != sidecar:
        changed[SIDECAR] = json_text(record).encode()
    return changed


def _without_sources(value: Any) -> Any:
    """The same record; sources that are paths are null."""
    if isinstance(value, list):
        return [_without_sources(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: None if key == "source" and is_local(item) else _without_sources(item)
        for key, item in value.items()
    }


def _facts(data: bytes) -> dict[str, Any]:
    digest = hasher()
    digest.update(data)
    return {"bytes": len(data), "digest": digest.hexdigest()}
