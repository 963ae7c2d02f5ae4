"""Checks of a graft that read its tensors: their digests, and the merge computed again."""

import math
from collections.abc import MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contextgraft.adapter.compute.tensor_pool import Buffers, for_each_tensor
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.kernels.evidence import TensorEvidence
from contextgraft.adapter.merge.manifest import LIBRARY, embeddings_record, file_facts
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.adapter.merge.tensor import discard, merge_planned
from contextgraft.adapter.verify.checks import Inputs, check_equal
from contextgraft.checkpoint.digest import tensor_digest
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.rope import settings, travelling
from contextgraft.rope.context_files import CONTEXT_FILES

if TYPE_CHECKING:
    from contextgraft.adapter.verify.other_device import GraftDifferences


def check_tensors(model: ModelFolder, manifest: dict[str, Any], inputs: Inputs) -> str:
    """Raise VerificationError unless every tensor has its recorded digest."""
    records = manifest["tensors"]
    check_equal("the list of tensors", sorted(records), sorted(model.tensors))

    def one(name: str, buffers: Buffers) -> None:  # noqa: ARG001
        record = records[name]
        check_equal(f"the digest of tensor {name}", record["digest_after"], tensor_digest(model, name))
        if not record["applied"]:
            check_equal(f"untouched tensor {name}", record["digest_before"], record["digest_after"])
        inputs.advance(model[name].bytes)

    for_each_tensor(one, sorted(records), inputs.threads)
    applied = [record for record in records.values() if record["applied"]]
    return f"{len(records)} tensors have the recorded digests, {len(applied)} of them changed"


def check_recomputed(
    graft: ModelFolder,
    target: Path,
    manifest: dict[str, Any],
    inputs: Inputs,
    digests: MutableMapping[str, str],
) -> str:
    """Raise VerificationError unless merging again gives the recorded evidence of every changed tensor.

    If the device that computed the graft is not here, a processor computes it again, and the stored tensors
    must be those within the bounds of `other_device`. `digests` receives the digest of each target tensor
    that was read, by its name.
    """
    made_on = manifest["device"]
    here = _is_available(made_on)
    device = made_on if here else "cpu"
    merged = zip(inputs.adapters, manifest["adapters"], strict=True)
    scaled = [ScaledAdapter(open_adapter(path), known["scale"]) for path, known in merged]
    rope, rounding = settings.from_json(manifest["rope"]["after"]), manifest["rounding"]
    attention = travelling.from_json(manifest.get("attention", {}))
    plan = plan_merge(scaled, target, rope=rope, attention=attention, rounding=rounding, replace_modules=True)
    check_equal("the record of embeddings", manifest.get("embeddings", {}), embeddings_record(plan))
    for path in plan.tokenizer_files:
        if path.name not in CONTEXT_FILES:
            check_equal(f"the tokenizer's {path.name}", manifest["files"].get(path.name), file_facts(path))
    applied = sorted(name for name, record in manifest["tensors"].items() if record["applied"])
    check_equal("the list of changed tensors", applied, list(plan.changed))

    arrays = LIBRARY.items() <= manifest.items()
    elsewhere = None if here else _differences(graft)

    def one(name: str, buffers: Buffers) -> None:
        stored = elsewhere.tensor(name) if elsewhere else None
        write = stored.add if stored else discard
        again = merge_planned(plan, name, buffers=buffers, write=write, device=device, arrays=arrays)
        if plan.fit.changes[name].source == name:
            digests[name] = again.digest_before
        recorded = TensorEvidence(**manifest["tensors"][name])
        if stored:
            stored.check(recorded, again)
        else:
            _same_evidence(name, recorded, again)
        inputs.advance(plan.layout.tensors[name].bytes)

    for_each_tensor(one, plan.changed, inputs.threads, device)
    if elsewhere is None:
        return f"{len(plan.changed)} changed tensors come out the same again"
    return (
        f"{len(plan.changed)} changed tensors, made on {made_on}, come out the same on this processor but for"
        f" rounding: {elsewhere.different} elements differ, within {elsewhere.bound};"
        f" that it was made on {made_on} is only the record's word"
    )


def _differences(graft: ModelFolder) -> "GraftDifferences":
    from contextgraft.adapter.verify.other_device import GraftDifferences

    return GraftDifferences(graft)


def _is_available(device: str) -> bool:
    if device == "cpu":
        return True
    import torch

    return torch.cuda.is_available()


def _same_evidence(name: str, recorded: TensorEvidence, again: TensorEvidence) -> None:
    for key, value in asdict(again).items():
        known = getattr(recorded, key)
        close = isinstance(value, float) and math.isclose(known, value, rel_tol=1e-6)
        if not close:
            check_equal(f"{key} of tensor {name}", known, value)
