"""Donor minus base as LoRA adapters: one decomposition a matrix, every rank a slice, one folder a cut."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from contextgraft.adapter.compute.parallel import each
from contextgraft.adapter.compute.seeds import seed_of
from contextgraft.adapter.compute.workspace import Workspace
from contextgraft.adapter.extract.delta import Delta
from contextgraft.adapter.extract.model_pair import HELD_BYTES, Pair
from contextgraft.adapter.extract.rank_spec import Cut
from contextgraft.adapter.extract.svd import factorise
from contextgraft.adapter.extract.write_adapter import assemble
from contextgraft.checkpoint.digest import file_digest
from contextgraft.checkpoint.reader import DTYPES
from contextgraft.checkpoint.resume import BUILT, ResumeLog, input_files, publish_folders
from contextgraft.checkpoint.writer import save_tensors
from contextgraft.formats.tensor_names import TensorRole


@dataclass(frozen=True)
class _Step:
    """The work on one tensor: measured, hashed, factorised if it is linear, and put on record."""

    pair: Pair
    cuts: Sequence[Cut]
    held_bytes: int
    device: str
    log: ResumeLog
    advance: Callable[[int], object]

    @property
    def _limit(self) -> int:
        return max(cut.most for cut in self.cuts)

    def run(self, name: str, workspace: Workspace) -> None:
        if not self._finished(name):
            self.log.put(name, self._work(name, workspace))
        self.advance(self.pair.base[name].bytes + self.pair.donor[name].bytes)

    def _finished(self, name: str) -> bool:
        """On record, and what was written is on the disk as recorded: a machine may have lost power since."""
        record = self.log.get(name)
        if record is None or "data" not in record:
            return record is not None
        path = self.log.file(name, ".safetensors")
        return path.exists() and file_digest(path) == record["data"]

    def _work(self, name: str, workspace: Workspace) -> dict[str, Any]:
        pair = self.pair
        keep = pair.keep_bytes(name, self._limit, self.held_bytes)
        delta = Delta(pair.base, pair.donor, name, workspace, keep, pair.rows_for(name))
        if name in pair.factorised:
            found = self._factorise(name, delta)
        elif name in pair.names[TensorRole.DENSE]:
            found = self._keep_dense(name, delta)
        else:
            found = {"delta_norm": math.sqrt(delta.squares())}
        base_norm = delta.measure.base_norm
        relative = found["delta_norm"] / base_norm if base_norm else None
        return asdict(delta.measure) | found | {"relative_delta": relative}

    def _factorise(self, name: str, delta: Delta) -> dict[str, Any]:
        """Write the factors in the model's own dtype; return what each rank adds to the captured energy.

        The delta carries the rounding of that dtype already, and relative to weights larger than itself:
        rounding its factors the same way adds less than is there.
        """
        shape = (delta.rows, delta.columns)
        factors = factorise(
            delta.tiles, shape, limit=self._limit, need=self._need, seed=seed_of(name), device=self.device
        )
        if not factors.total:
            return {"delta_norm": 0.0}
        dtype = DTYPES[self.pair.donor[name].dtype]
        A_RN, B_MR = (factor.to("cpu", dtype) for factor in factors.lora())
        return {
            "delta_norm": math.sqrt(factors.total),
            "squares": factors.S_R.double().square().tolist(),
            "excess": None if math.isnan(factors.excess) else factors.excess,
            "passes": factors.passes,
            "data": self._write(name, {"A": A_RN, "B": B_MR}),
        }

    def _need(self, squares: torch.Tensor, total: float) -> int:
        values = squares.tolist()
        return max(cut.of(values, total) for cut in self.cuts)

    def _keep_dense(self, name: str, delta: Delta) -> dict[str, Any]:
        whole = torch.cat([tile.to("cpu", copy=True) for tile in delta.tiles()]).reshape(-1)
        norm = float(torch.linalg.vector_norm(whole, dtype=torch.float64))
        return {"delta_norm": norm} | ({"data": self._write(name, {"delta": whole})} if norm else {})

    def _write(self, name: str, tensors: dict[str, torch.Tensor]) -> str:
        path = self.log.file(name, ".safetensors")
        save_tensors(path, tensors, durable=False)
        return file_digest(path)


def extract(
    pair: Pair,
    cuts: Sequence[Cut],
    out: Path,
    *,
    gguf: bool = False,
    replace: bool = False,
    threads: int = 1,
    held_bytes: int = HELD_BYTES,
    device: str = "cpu",
    advance: Callable[[int], object] = int,
) -> dict[str, dict[str, Any]]:
    """Write `out`/<name of the cut> for every cut and return their sidecars; `advance` hears of bytes read.

    `gguf` adds each adapter in llama.cpp's format; with `replace`, existing folders are replaced. A rerun
    with the same inputs continues after the last finished tensor and writes the same bytes. Weights that are
    not finite raise CheckpointError, equal models MismatchError; nothing is left behind then.
    """
    cuts = sorted({cut.name: cut for cut in cuts}.values(), key=lambda cut: (cut.energy or 0, cut.rank))
    job = {
        "verb": "extract",
        "base": input_files(pair.base),
        "donor": input_files(pair.donor),
        "cuts": [asdict(cut) for cut in cuts],
        "selection": asdict(pair.selection),
        "device": device,
        "gguf": gguf,
    }
    folders = [cut.name for cut in cuts]
    with publish_folders(out, folders, job, replace=replace) as log:
        built = log.get(BUILT)
        if built is None:
            step = _Step(pair, cuts, held_bytes, device, log, advance)
            names = sorted((name for names in pair.names.values() for name in names), key=pair.size)
            each(step.run, reversed(names), threads, device)
            built = assemble(pair, cuts, log, gguf)
            log.put(BUILT, built)
        return {name: built[name] for name in folders}
