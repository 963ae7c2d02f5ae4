"""A graft's config, tokenizer and other small files, and `contextgraft.json` with the evidence."""

import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contextgraft.adapter.merge.plan import MergePlan
from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.digest import bytes_digest, file_digest, hasher
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, MODEL_INDEX, MODEL_WEIGHTS, read_json
from contextgraft.checkpoint.safetensors_header import open_tensors
from contextgraft.formats.model.own_files import copy_own_file
from contextgraft.formats.model.tied_head import untie, with_vocabulary
from contextgraft.formats.sidecar import SIDECAR, identity, read_sidecar, sidecar
from contextgraft.rope import settings, travelling
from contextgraft.rope.context_files import CONTEXT_FILES, LENGTH, TOKENIZER_CONFIG

# numpy computes what it can; grafts without the key are of versions in which PyTorch computed everything
LIBRARY = {"library": "numpy"}


def finish(
    plan: MergePlan, work: Path, tensors: Mapping[str, Mapping[str, Any]], device: str
) -> dict[str, Any]:
    """Write everything but the shards, which are written already, and return the manifest."""
    lengths = write_small_files(plan, work)
    write_index(plan, work)
    names = [*plan.target.shards, *plan.copied, MODEL_CONFIG, *_index_names(plan)]
    files = {name: file_facts(work / name) for name in names}
    manifest = graft_manifest(plan, tensors, lengths, files, device)
    write_json(work / SIDECAR, manifest, durable=False)
    return manifest


def finished(plan: MergePlan, out: Path) -> dict[str, Any] | None:
    """The manifest of an existing graft at `out`, if it has the same adapters, target and settings.

    A manifest without all the files that it names, as `evaluate --record` writes it, is not a graft.
    """
    if not (out / SIDECAR).exists():
        return None
    manifest = read_sidecar(out)
    if not all(_is_whole(out / name, facts) for name, facts in manifest.get("files", {}).items()):
        return None
    with tempfile.TemporaryDirectory() as folder:
        write_small_files(plan, Path(folder))
        small = {name: file_facts(Path(folder) / name) for name in (*plan.copied, MODEL_CONFIG)}
    requested = {
        "kind": "graft",
        "rounding": plan.rounding,
        "rope_from": plan.rope_from,  # the settings themselves are in config.json
        "attention": travelling.to_json(plan.context.attention),
        "adapters": [[scaled.adapter.digest, scaled.scale] for scaled in plan.adapters],
        "target": identity(plan.target)["digest"],
        "files": small,
    }
    recorded = {
        "kind": manifest.get("kind"),
        "rounding": manifest.get("rounding"),
        "rope_from": manifest.get("rope", {}).get("from"),
        "attention": manifest.get("attention", {}),
        "adapters": [[scaled["digest"], scaled["scale"]] for scaled in manifest.get("adapters", [])],
        "target": manifest.get("target", {}).get("digest"),
        "files": {name: manifest.get("files", {}).get(name) for name in small},
    }
    return manifest if recorded == requested else None


def _is_whole(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a file exists with the size that its `file_facts` state."""
    return path.is_file() and path.stat().st_size == facts.get("bytes")


def summary(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a manifest over all tensors: norms before and after rounding, and the retained share."""
    records = manifest["tensors"].values()
    norm = math.hypot(*(record["delta_norm"] for record in records))
    inner = math.fsum(record["kept"] * record["delta_norm"] ** 2 for record in records)
    return {
        "changed": sum(record["applied"] for record in records),
        "tensors": len(records),
        "delta_norm": norm,
        "survived_norm": math.hypot(*(record["survived_norm"] for record in records)),
        "kept": inner / norm**2 if norm else 1.0,
        "rounding": manifest["rounding"],
        "rope": manifest["rope"],
        "attention": manifest.get("attention", {}),
        "replaced": manifest["replaced"],
        "left_out": manifest["left_out"],
    }


def file_facts(path: Path) -> dict[str, Any]:
    """Size and digest of a file; of a shard, the digest of its header: its tensors have their own."""
    facts: dict[str, Any] = {"bytes": path.stat().st_size}
    if path.suffix != ".safetensors":
        return facts | {"digest": file_digest(path)}
    with path.open("rb") as file:
        return facts | {"header": bytes_digest(file.fileno(), 0, open_tensors(path).data_begin)}


def write_small_files(
    plan: MergePlan, work: Path, copy: Callable[[Path, str, Path], object] = copy_own_file
) -> dict[str, list[Any]]:
    """Write config, tokenizer and other files than weights; the tokenizer's lengths before and after.

    `copy` brings a file that stays as it is: it is called with its folder, its name and its path in `work`.
    """
    target = plan.target
    record = embeddings_record(plan)
    if plan.rope_from == "target" and not record:
        copy(target.path, MODEL_CONFIG, work / MODEL_CONFIG)
    else:
        write_json(work / MODEL_CONFIG, with_embeddings(plan.config, record), durable=False)
    for name, folder in plan.origins.items():
        copy(folder, name, work / name)
    lengths = {}
    for name in CONTEXT_FILES if plan.rope_from != "target" else ():
        if name in plan.copied:
            before = read_json(plan.origins[name] / name)
            after = CONTEXT_FILES[name](before, plan.rope.context)
            lengths[name] = [before.get(LENGTH), after.get(LENGTH)]
            if after != before or name == TOKENIZER_CONFIG:
                write_json(work / name, after, durable=False)
    return lengths


def graft_origin(plan: MergePlan, known: Mapping[str, str]) -> dict[str, Any]:
    """The keys of the manifest that say what a graft is made of; `known` are digests of target tensors."""
    return {
        "adapters": [
            {
                "digest": scaled.adapter.digest,
                "rank": scaled.adapter.rank,
                "scale": scaled.scale,
                **scaled.adapter.origin,
            }
            for scaled in plan.adapters
        ],
        "target": identity(plan.target, known),
    }


def embeddings_record(plan: MergePlan) -> dict[str, Any]:
    """What the graft's embeddings have of their own, for the manifest; empty where nothing."""
    fit = plan.fit
    return (
        ({"untied": True} if fit.untied else {})
        | ({"rows": fit.vocabulary} if fit.vocabulary is not None else {})
        | ({"tokenizer": "adapter"} if fit.tokenizer is not None else {})
    )


def with_embeddings(config: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the vocabulary and the head that `embeddings_record` describes."""
    changed = untie(config) if record.get("untied") else dict(config)
    return changed if record.get("rows") is None else with_vocabulary(changed, record["rows"])


def write_index(plan: MergePlan, work: Path) -> None:
    """The target's index byte for byte, unless tensors are new or have more rows; none for a single file."""
    if not _index_names(plan):
        return
    if plan.layout.tensors == plan.target.tensors:
        copy_own_file(plan.target.path, MODEL_INDEX, work / MODEL_INDEX)
    else:
        index = plan.layout.index(read_json(plan.target.path / MODEL_INDEX))
        write_json(work / MODEL_INDEX, index, durable=False)


def _index_names(plan: MergePlan) -> tuple[str, ...]:
    return () if MODEL_WEIGHTS in plan.target.shards else (MODEL_INDEX,)


def planned_facts(plan: MergePlan, folder: Path) -> dict[str, dict[str, Any]]:
    """`file_facts` of every file of a graft whose small files alone are in `folder`."""
    with tempfile.TemporaryDirectory() as index:
        write_index(plan, Path(index))
        of_index = {name: file_facts(Path(index) / name) for name in _index_names(plan)}
    shards = {
        name: {"bytes": shard.size, "header": _digest(shard.header)}
        for name, shard in plan.layout.shards.items()
    }
    small = {name: file_facts(folder / name) for name in (*plan.copied, MODEL_CONFIG)}
    return {**shards, **small, **of_index}


def _digest(data: bytes) -> str:
    digest = hasher()
    digest.update(data)
    return digest.hexdigest()


def graft_manifest(
    plan: MergePlan,
    tensors: Mapping[str, Mapping[str, Any]],
    lengths: Mapping[str, list[Any]],
    files: Mapping[str, Mapping[str, Any]],
    device: str,
) -> dict[str, Any]:
    """The content of `contextgraft.json`.

    `tensors` is the evidence for each tensor, `lengths` are those that `write_small_files` returned, `files`
    the facts of each file, `device` is what computed the tensors.
    """
    known = {name: record["digest_before"] for name, record in tensors.items()}
    before = settings.read_any_length(plan.target.config, plan.target.path)
    attention = travelling.to_json(plan.context.attention)
    tokenizer = lengths.get(TOKENIZER_CONFIG)
    return sidecar(
        "graft",
        **graft_origin(plan, known),
        rounding=plan.rounding,
        replaced=list(plan.replaced),
        rope={
            "before": settings.to_record(before),
            "after": settings.to_record(plan.rope),
            "from": plan.rope_from,
        },
        **({"attention": attention} if attention else {}),
        tokenizer={LENGTH: tokenizer} if tokenizer else {},
        tensors=dict(tensors),
        **({"embeddings": record} if (record := embeddings_record(plan)) else {}),
        files=dict(files),
        left_out=list(plan.left_out),
        device=device,
        **LIBRARY,
    )
