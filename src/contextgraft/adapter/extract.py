"""Donor minus base as LoRA adapters: one decomposition a matrix, every rank a slice, one folder a rank."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from contextgraft.adapter.architecture import Kind
from contextgraft.adapter.assemble import assemble
from contextgraft.adapter.delta import Delta
from contextgraft.adapter.pair import KEEP_BYTES, Pair
from contextgraft.adapter.parallel import each
from contextgraft.adapter.svd import factorise
from contextgraft.checkpoint.journal import Journal, stamp
from contextgraft.checkpoint.publish import install, refuse_existing, workspace
from contextgraft.checkpoint.reader import DTYPES
from contextgraft.checkpoint.writer import order, write_tensors

BUILT = "built"  # journal key: every folder is whole, only renames are left


@dataclass(frozen=True)
class _Step:
    """The work on one tensor: measured, hashed, factorised if it is linear, and put on record."""

    pair: Pair
    rank: int
    keep_bytes: int
    journal: Journal
    advance: Callable[[int], object]

    def run(self, name: str) -> None:
        if self.journal.get(name) is None:
            self.journal.put(name, self._work(name))
        self.advance(self.pair.base[name].bytes + self.pair.donor[name].bytes)

    def _work(self, name: str) -> dict[str, Any]:
        delta = Delta(self.pair.base, self.pair.donor, name, self.keep_bytes)
        measure = delta.measure()
        record: dict[str, Any] = asdict(measure) | {"relative_delta": measure.relative}
        if not measure.delta_norm:
            return record
        if name in self.pair.names[Kind.LINEAR]:
            return record | {"squares": self._factorise(name, delta)}
        if name in self.pair.names[Kind.DENSE]:
            self._write(name, {"delta": torch.cat(list(delta.tiles()))})
        return record

    def _factorise(self, name: str, delta: Delta) -> list[float]:
        """Write the factors in the model's own dtype; return what each rank adds to the captured energy.

        The delta carries the rounding of that dtype already, and relative to weights larger than itself:
        rounding its factors the same way adds less than is there.
        """
        info = self.pair.donor[name]
        factors = factorise(delta.tiles, (info.shape[0], info.shape[1]), self.rank, seed_of(name))
        A_RN, B_MR = (factor.to(DTYPES[info.dtype]) for factor in factors.lora())
        self._write(name, {"A": A_RN, "B": B_MR})
        return [float(value) for value in factors.S_R.double().square()]

    def _write(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        specs = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
        path = self.journal.file(name, ".safetensors")
        write_tensors(path, specs, (tensors[key] for key in order(specs)))


def extract(
    pair: Pair,
    ranks: Sequence[int],
    out: Path,
    *,
    threads: int = 1,
    keep_bytes: int = KEEP_BYTES,
    advance: Callable[[int], object] = int,
) -> dict[int, dict[str, Any]]:
    """Write `out`/r<rank> for every rank and return their sidecars; `advance` hears of bytes read.

    A rerun with the same inputs goes on after the last finished tensor, to the same bytes. Weights that are
    not finite raise CheckpointError, equal models MismatchError; nothing is left behind then.
    """
    ranks = sorted(set(ranks))
    job = {"verb": "extract", "base": stamp(pair.base), "donor": stamp(pair.donor), "ranks": ranks}
    with workspace(out) as work:
        journal = Journal(work, job)
        _refuse(journal, out, ranks)
        with journal:
            _refuse(journal, out, ranks)  # again: the journal may have been another job's
            if journal.get(BUILT) is None:
                step = _Step(pair, ranks[-1], keep_bytes, journal, advance)
                each(step.run, [name for names in pair.names.values() for name in names], threads)
                sidecars = assemble(pair, ranks, journal)
                journal.put(BUILT, {str(rank): content for rank, content in sidecars.items()})
            return _install_all(journal, out, ranks)


def _refuse(journal: Journal, out: Path, ranks: Sequence[int]) -> None:
    if journal.get(BUILT) is None:
        for rank in ranks:
            refuse_existing(out / f"r{rank}")


def _install_all(journal: Journal, out: Path, ranks: Sequence[int]) -> dict[int, dict[str, Any]]:
    for rank in ranks:
        if (journal.work / f"r{rank}").exists():
            install(journal.work / f"r{rank}", out / f"r{rank}")
    built = journal.get(BUILT) or {}
    return {rank: built[str(rank)] for rank in ranks}


def seed_of(name: str) -> int:
    """The seed of a tensor's sketch: from its name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
