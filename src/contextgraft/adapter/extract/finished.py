"""Whether adapters exist already, of the same models and with the same options."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contextgraft.adapter.extract.model_pair import ModelPair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.extract.tokenizer_record import tokenizer_record
from contextgraft.adapter.gguf.llama_cpp import GGUF_FILE
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.checkpoint.atomic import json_text
from contextgraft.checkpoint.digest import file_digest
from contextgraft.checkpoint.model_folder import SIDECAR, open_tensors
from contextgraft.errors import ContextgraftError, OutputError, raise_read_error
from contextgraft.formats.architecture import architecture
from contextgraft.formats.model.vocabulary import TOKENIZER
from contextgraft.formats.peft import DENSE_DELTAS, module_of
from contextgraft.formats.sidecar import identity, read_sidecar


def finished_adapters(
    models: ModelPair, specs: Sequence[RankSpec], out: Path, *, gguf: bool = False
) -> dict[str, dict[str, Any]] | None:
    """The sidecars of the adapters in `out`, if all exist and were extracted like this; else None.

    The digests of both models are computed, but only where the rest is equal. An adapter of which a file is
    missing, cut or malformed raises OutputError.
    """
    facts = _facts(models)
    sidecars = {}
    for spec in specs:
        folder = out / spec.name
        if not (folder / SIDECAR).exists() or (folder / GGUF_FILE).exists() != gguf:
            return None
        if spec.energy is not None:  # sidecars do not record whether ranks were rounded up
            return None
        sidecars[spec.name] = record = read_sidecar(folder)
        requested = {**facts, "asked": spec.requested}
        if "base" not in (record.get("attention") or {}):  # older versions did not record it
            requested["attention"] = {key: requested["attention"][key] for key in ("changed", "not_carried")}
        recorded = {key: record.get(key) for key in requested} | {
            "modules": sorted(record.get("modules", {}))
        }
        # as JSON has it: without the difference of tuples and lists
        if "backend" in record or json_text(recorded) != json_text(requested):
            return None
    digests = [identity(folder)["digest"] for folder in (models.base, models.donor)]
    same = all(
        [record.get(role, {}).get("digest") for role in ("base", "donor")] == digests
        for record in sidecars.values()
    )
    if not same:
        return None
    for name, record in sidecars.items():
        _check_files(out / name, record, gguf=gguf)
    return sidecars


def _facts(models: ModelPair) -> dict[str, Any]:
    """The keys of a sidecar that follow from options, configs and tokenizers, whatever the rank.

    The digest of a model covers its tensors and its RoPE settings only.
    """
    return {
        "kind": "adapter",
        "selection": asdict(models.selection),
        "architecture": architecture(models.base.config),
        "modules": sorted(map(module_of, models.factorised)),
        **models.context_record(),
        "tokenizers": None,
        **tokenizer_record(models),
    }


def _check_files(folder: Path, record: Mapping[str, Any], *, gguf: bool) -> None:
    """Raise OutputError unless the files that a sidecar implies are there and have valid headers."""
    try:
        open_adapter(folder)
        if record["dense"]:
            open_tensors(folder / DENSE_DELTAS)
        if gguf:
            from contextgraft.adapter.gguf.check_file import check_gguf

            check_gguf(folder / GGUF_FILE)
        tokenizer = record.get("tokenizers", {}).get("base")
        if tokenizer is not None and file_digest(folder / TOKENIZER) != tokenizer:
            raise OutputError("differs from the base's tokenizer", path=folder / TOKENIZER)
    except (ContextgraftError, OSError) as error:
        raise_read_error(error, folder)
        raise OutputError(
            "is an adapter of the same models, but damaged", path=folder, received=error,
            remedy="pass --force to extract it again",
        ) from None  # fmt: skip
