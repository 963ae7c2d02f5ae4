"""Donor minus base as LoRA adapters: one decomposition per matrix, every rank a slice of it."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from contextgraft.adapter.compute.numeric import seed_of
from contextgraft.adapter.compute.tensor_pool import Buffers, for_each_tensor
from contextgraft.adapter.extract.delta import Delta
from contextgraft.adapter.extract.model_pair import DELTA_CACHE_BYTES, ModelPair
from contextgraft.adapter.extract.products import fastest_products
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.extract.svd import Decomposition, factorise, stacked_factors, summed_squares
from contextgraft.adapter.extract.write_adapter import assemble
from contextgraft.checkpoint.atomic import remove_output
from contextgraft.checkpoint.digest import file_digest
from contextgraft.checkpoint.model_folder import SIDECAR
from contextgraft.checkpoint.reader import DTYPES
from contextgraft.checkpoint.resume import BUILT, ResumeLog, input_files, publish_folders
from contextgraft.checkpoint.writer import save_tensors
from contextgraft.errors import InputError, MismatchError
from contextgraft.formats.tensor_names import TensorRole


@dataclass(frozen=True)
class _ExtractStep:
    """The work on one tensor: measure, hash, factorise if it is linear, and record."""

    models: ModelPair
    specs: Sequence[RankSpec]
    cache_bytes: int
    device: str
    products: str
    log: ResumeLog
    advance: Callable[[int], object]

    @property
    def _limit(self) -> int:
        return max(spec.max_rank for spec in self.specs)

    def run(self, name: str, buffers: Buffers) -> None:
        if not self._finished(name):
            self.log.put(name, self._work(name, buffers))
        self.advance(self.models.base[name].bytes + self.models.donor[name].bytes)

    def _finished(self, name: str) -> bool:
        """Whether the step is recorded and its file intact, which it may not be after a loss of power."""
        record = self.log.get(name)
        if record is None or "data" not in record:
            return record is not None
        path = self.log.file(name, ".safetensors")
        return path.exists() and file_digest(path) == record["data"]

    def _work(self, name: str, buffers: Buffers) -> dict[str, Any]:
        models = self.models
        keep = models.keep_bytes(name, self._limit, self.cache_bytes)
        delta = Delta(models.base, models.donor, name, buffers, keep, models.rows_for(name))
        if name in models.factorised:
            record = self._factorise(name, delta)
        elif name in models.names_by_role[TensorRole.DENSE]:
            record = self._keep_dense(name, delta)
        else:
            record = {"delta_norm": math.sqrt(delta.squares())}
            if record["delta_norm"] and name in models.names_by_role[TensorRole.UNSUPPORTED]:
                raise _cannot_be_carried(models, name)
        base_norm = delta.measure.base_norm
        relative = record["delta_norm"] / base_norm if base_norm else None
        return asdict(delta.measure) | record | {"relative_delta": relative}

    def _factorise(self, name: str, delta: Delta) -> dict[str, Any]:
        """Write the factors in the model's dtype; return the squared singular values and the error estimate.

        Experts in one tensor are factorised one by one; their squared singular values are added by rank.

        The delta already has the rounding error of that dtype, relative to weights larger than the delta:
        rounding its factors adds less than that.
        """
        stacked = len(self.models.base[name].shape) > 2
        deltas = delta.experts() if stacked else [delta]
        solved = [self._decompose(f"{name}.{n}" if stacked else name, each) for n, each in enumerate(deltas)]
        total = math.fsum(factors.total for factors in solved)
        if not total:
            return {"delta_norm": 0.0}
        A, B = stacked_factors(solved, DTYPES[self.models.donor[name].dtype])
        excess = [factors.excess for factors in solved if factors.total]
        return {
            "delta_norm": math.sqrt(total),
            "squares": summed_squares(solved),
            "excess": None if any(map(math.isnan, excess)) else max(excess),
            "passes": max(factors.passes for factors in solved),
            "data": self._write(name, {"A": A, "B": B} if stacked else {"A": A[0], "B": B[0]}),
        }

    def _decompose(self, seed: str, delta: Delta) -> Decomposition:
        return factorise(
            delta.tiles, (delta.rows, delta.columns), limit=self._limit, need=self._need, seed=seed_of(seed),
            device=self.device, products=self.products,
        )  # fmt: skip

    def _need(self, squares: torch.Tensor, total: float) -> int:
        values = squares.tolist()
        return max(spec.rank_for(values, total) for spec in self.specs)

    def _keep_dense(self, name: str, delta: Delta) -> dict[str, Any]:
        whole = torch.cat([tile.to("cpu", copy=True) for tile in delta.tiles()])
        whole = whole.reshape(self.models.donor[name].shape)
        norm = float(torch.linalg.vector_norm(whole, dtype=torch.float64))
        return {"delta_norm": norm} | ({"data": self._write(name, {"delta": whole})} if norm else {})

    def _write(self, name: str, tensors: dict[str, torch.Tensor]) -> str:
        path = self.log.file(name, ".safetensors")
        save_tensors(path, tensors, durable=False)
        return file_digest(path)


def extract(
    models: ModelPair,
    specs: Sequence[RankSpec],
    out: Path,
    *,
    gguf: bool = False,
    replace: bool = False,
    threads: int = 1,
    cache_bytes: int = DELTA_CACHE_BYTES,
    device: str = "cpu",
    products: str | None = None,
    advance: Callable[[int], object] = int,
) -> dict[str, dict[str, Any]]:
    """Write `out`/<name> for every rank spec and return the sidecars; `advance` is called with bytes read.

    `products` is a key of PRODUCTS, by default the fastest for this processor; sidecars record it.
    `gguf` adds each adapter in llama.cpp's format; what it cannot hold raises InputError before any weight
    is read. With `replace`, existing folders are replaced. A rerun with the same inputs continues after the
    last finished tensor and writes the same bytes. Weights that are not finite raise CheckpointError, equal
    models MismatchError; nothing is left behind then.
    """
    if gguf:
        _check_gguf(models)
    specs = sorted(
        {spec.name: spec for spec in specs}.values(), key=lambda spec: (spec.energy or 0, spec.rank)
    )
    products = products or fastest_products(device)
    job = {
        "verb": "extract",
        "base": input_files(models.base),
        "donor": input_files(models.donor),
        "cuts": [asdict(spec) for spec in specs],
        "selection": asdict(models.selection),
        "device": device,
        "products": products,
        "gguf": gguf,
    }
    folders = [spec.name for spec in specs]
    inputs = (models.base.path, models.donor.path)
    with publish_folders(out, folders, job, replace=replace, inputs=inputs) as log:
        built = log.get(BUILT)
        if built is None:
            step = _ExtractStep(models, specs, cache_bytes, device, products, log, advance)
            names = sorted(
                (name for names in models.names_by_role.values() for name in names), key=models.size_key
            )
            for_each_tensor(step.run, reversed(names), threads, device)
            built = assemble(models, specs, log, products, gguf)
            log.put(BUILT, built)
        return {name: built[name] for name in folders}


def _cannot_be_carried(models: ModelPair, name: str) -> MismatchError:
    return MismatchError(
        f"changes tensor {name!r}, which no adapter carries",
        path=models.donor.path,
        expected="changes in layers, norms, biases and the embeddings of tokens only",
        received=f"shape {list(models.base[name].shape)}",
        remedy="leave it as in the target with --exclude",
    )


def _check_gguf(models: ModelPair) -> None:
    from contextgraft.adapter.gguf.weights import gguf_layout

    if models.longer:
        raise InputError(
            f"has more learned positions, {models.longer[0]!r}, which an adapter in GGUF does not carry",
            path=models.donor.path, remedy="leave --gguf out, or convert a graft instead",
        )  # fmt: skip
    gguf_layout(models.factorised, models.base)


def remove_other_adapters(out: Path, names: Collection[str]) -> None:
    """Remove the adapters in `out` whose folders are not among `names`."""
    for sidecar in sorted(out.glob(f"*/{SIDECAR}")):
        if sidecar.parent.name not in names:
            remove_output(sidecar.parent)
