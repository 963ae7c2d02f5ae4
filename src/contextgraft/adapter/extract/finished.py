"""Whether adapters exist already, of the same models and with the same options."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contextgraft.adapter.extract.model_pair import ModelPair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.gguf.llama_cpp import GGUF_FILE
from contextgraft.checkpoint.atomic import json_text
from contextgraft.checkpoint.model_folder import SIDECAR
from contextgraft.formats.sidecar import identity, read_sidecar


def finished_adapters(
    models: ModelPair, specs: Sequence[RankSpec], out: Path, *, gguf: bool = False
) -> dict[str, dict[str, Any]] | None:
    """The sidecars of the adapters in `out`, if all exist and were extracted like this; else None.

    The digests of both models are computed, but only where the rest is equal.
    """
    sidecars = {}
    for spec in specs:
        folder = out / spec.name
        if not (folder / SIDECAR).exists() or (folder / GGUF_FILE).exists() != gguf:
            return None
        if spec.energy is not None:  # sidecars do not record whether ranks were rounded up
            return None
        sidecars[spec.name] = record = read_sidecar(folder)
        recorded = [record.get("kind"), record.get("asked"), record.get("selection"), record.get("backend")]
        # as JSON has it: without the difference of tuples and lists
        if json_text(recorded) != json_text(["adapter", spec.requested, asdict(models.selection), None]):
            return None
    digests = [identity(folder)["digest"] for folder in (models.base, models.donor)]
    same = all(
        [record.get(role, {}).get("digest") for role in ("base", "donor")] == digests
        for record in sidecars.values()
    )
    return sidecars if same else None
