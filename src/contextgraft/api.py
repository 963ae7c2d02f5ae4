"""The public functions: what the commands of the same names do, with paths in and result objects out.

Import them from `contextgraft`. Paths may be strings. A mistake that the caller can correct raises
ContextgraftError. `threads` is the number of tensors worked on at once, by default one for each core;
`progress` is called with numbers of bytes. The same call resumes an interrupted `extract`, `merge` or
`fetch`. A function imports the module that does the work when it is called.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from contextgraft.adapter.extract.rank_spec import RankSpec, TensorSelection
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.merge.plan import MergePlan, ScaledAdapter
from contextgraft.api_results import Comparison, ExtractedAdapter, MergeResult, Verification
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, ModelFolder, read_json
from contextgraft.errors import InputError, required_extra
from contextgraft.formats.alignment import AlignmentResult
from contextgraft.formats.peft import ADAPTER_CONFIG
from contextgraft.formats.tensor_names import TensorRole
from contextgraft.rope.settings import RopeSettings

StrPath = str | os.PathLike[str]
Progress = Callable[[int], object]
Embeddings = Literal["both", "input", "output"]


def open_model(path: StrPath) -> ModelFolder:
    """Open and check a model folder: config, tensor names, dtypes and shapes. No weight is read."""
    from contextgraft.checkpoint.model_folder import open_model

    return open_model(Path(path))


def open_adapter(path: StrPath) -> Adapter:
    """Open and check a PEFT LoRA folder, written by `extract` or by another program. No factor is read."""
    from contextgraft.adapter.lora.adapter import open_adapter

    return open_adapter(Path(path))


def read_rope(path: StrPath) -> RopeSettings:
    """Rotary settings of a model folder, or of the donor of an adapter that `extract` wrote."""
    from contextgraft.rope.settings import read

    folder = Path(path)
    if not (folder / ADAPTER_CONFIG).exists():
        return read(read_json(folder / MODEL_CONFIG), folder)
    rope = open_adapter(folder).rope
    if rope is None:
        raise InputError("has no record of its donor's RoPE", path=folder, expected="a model's folder")
    return rope


def fetch(
    source: StrPath,
    out: StrPath,
    *,
    dtype: str = "bfloat16",
    convert_pickles: bool = False,
    dequantize: bool = False,
) -> Path:
    """Copy a model or data set into the folder `out`, and return that folder.

    Sources are a folder, a GGUF file, package:NAME, demo:NAME, hf:OWNER/NAME[@REVISION] and
    hf:datasets/OWNER/NAME[@REVISION]. `dtype` is what the tensors of a GGUF file are converted to. With
    `convert_pickles`, weights that are pickles become safetensors, and none of their code runs; with
    `dequantize`, FP8 weights with scales by block become bfloat16.
    """
    from contextgraft.sources.conversion import Conversion
    from contextgraft.sources.fetch import fetch

    with required_extra("fetch"):
        conversion = Conversion(convert_pickles, dequantize)
        fetch(os.fspath(source), Path(out), dtype, conversion=conversion)
    return Path(out)


def extract(
    base: StrPath,
    donor: StrPath,
    out: StrPath,
    *,
    ranks: Sequence[int] = (),
    energies: Sequence[float] = (),
    max_rank: int = 128,
    include: str = "",
    exclude: str | None = None,
    embeddings: Embeddings | None = None,
    gguf: bool = False,
    replace: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress = int,
) -> list[ExtractedAdapter]:
    """Factorise donor minus base into one LoRA adapter for each rank and energy, in one pass.

    An energy, above 0 and up to 1, gives every module the smallest rank, up to `max_rank`, that captures that
    share of its delta. `include` and `exclude` are regular expressions on names of tensors. The adapters are
    written to `out`/r<rank> and `out`/e<energy>. An existing one raises OutputError unless `replace`.
    """
    from contextgraft.adapter.extract.extract import extract
    from contextgraft.adapter.extract.model_pair import open_pair

    specs = [RankSpec(rank) for rank in ranks] + [RankSpec(max_rank, energy) for energy in energies]
    if not specs or any(rank < 1 for rank in (*ranks, max_rank)) or not all(0 < e <= 1 for e in energies):
        raise InputError(
            "extract has no usable rank or energy",
            expected="ranks of at least 1, or energies above 0 and up to 1",
            received=f"ranks {list(ranks)}, energies {list(energies)}, max_rank {max_rank}",
        )
    models = open_pair(Path(base), Path(donor), _selection(include, exclude, embeddings))
    with required_extra("extract"):
        sidecars = extract(
            models,
            specs,
            Path(out),
            gguf=gguf,
            replace=replace,
            threads=_threads(threads),
            device=device,
            advance=progress,
        )
    return [
        ExtractedAdapter(Path(out) / name, sidecar["rank"], sidecar["energy"], sidecar["error"], sidecar)
        for name, sidecar in sidecars.items()
    ]


def plan_merge(
    adapter: StrPath | Sequence[StrPath],
    target: StrPath,
    *,
    scale: float | Sequence[float] = 1.0,
    rope: RopeSettings | None = None,
    rope_from: StrPath | None = None,
    keep_rope: bool = False,
    rounding: Literal["nearest", "stochastic"] = "nearest",
    replace_modules: bool = False,
) -> MergePlan:
    """Check that adapters fit a target, and return what `merge` would do, without writing anything.

    `scale` multiplies the delta, one number for all adapters or one for each; 0 changes RoPE only. The graft
    gets `rope`, or RoPE and attention settings of the model or adapter `rope_from`, or else the adapters'
    own; with `keep_rope` the target's. With `replace_modules`, modules and biases that an adapter stores in
    full overwrite the target's.
    """
    from contextgraft.adapter.merge.graft_config import context_of
    from contextgraft.adapter.merge.plan import plan_merge

    if sum((rope is not None, rope_from is not None, keep_rope)) > 1:
        raise InputError("too many origins of RoPE settings", expected="one of rope, rope_from and keep_rope")
    settings = {"rope": rope} if rope_from is None else context_of(Path(rope_from), Path(target))
    options = settings | {"keep_rope": keep_rope, "rounding": rounding, "replace_modules": replace_modules}
    paths = [adapter] if isinstance(adapter, str | os.PathLike) else list(adapter)
    scales = [float(scale)] * len(paths) if isinstance(scale, int | float) else list(scale)
    if len(scales) != len(paths) or not all(map(math.isfinite, scales)):
        raise InputError(
            "the scales do not fit the adapters",
            expected=f"one finite number, or {len(paths)}", received=scales,
        )  # fmt: skip
    scaled = [ScaledAdapter(open_adapter(path), factor) for path, factor in zip(paths, scales, strict=True)]
    return plan_merge(scaled, Path(target), **options)


def merge(
    adapter: StrPath | Sequence[StrPath],
    target: StrPath,
    out: StrPath,
    *,
    scale: float | Sequence[float] = 1.0,
    rope: RopeSettings | None = None,
    rope_from: StrPath | None = None,
    keep_rope: bool = False,
    rounding: Literal["nearest", "stochastic"] = "nearest",
    replace_modules: bool = False,
    replace: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress = int,
) -> MergeResult:
    """Merge one adapter, or the sum of several, into a copy of the target, with the donor's RoPE and length.

    The options up to `replace_modules` are those of `plan_merge`. The target is not changed. An
    existing `out` raises OutputError unless `replace`.
    """
    from contextgraft.adapter.merge.merge import merge

    planned = plan_merge(
        adapter, target, scale=scale, rope=rope, rope_from=rope_from, keep_rope=keep_rope,
        rounding=rounding, replace_modules=replace_modules,
    )  # fmt: skip
    manifest = merge(
        planned, Path(out), replace=replace, threads=_threads(threads), device=device, advance=progress
    )
    return MergeResult(Path(out), manifest)


def verify(
    path: StrPath,
    *,
    target: StrPath | None = None,
    adapters: Sequence[StrPath] = (),
    base: StrPath | None = None,
    donor: StrPath | None = None,
    threads: int | None = None,
    progress: Progress = int,
) -> Verification:
    """Check a graft, or an adapter, against its own record and the models that it was made from.

    A graft is checked alone, or against its `target` and its `adapters` in the order of the merge: then
    every changed tensor is computed again. An adapter needs `base` and `donor`: its norms and errors are
    computed again.
    """
    from contextgraft.adapter.verify.adapter import verify_adapter
    from contextgraft.adapter.verify.graft import verify

    folder, count = Path(path), _threads(threads)
    if (folder / ADAPTER_CONFIG).exists():
        if base is None or donor is None or target is not None or adapters:
            raise InputError("is an adapter", path=folder, expected="base= and donor=, and nothing else")
        checks = verify_adapter(folder, Path(base), Path(donor), threads=count, advance=progress)
    else:
        if base is not None or donor is not None:
            raise InputError("is a graft", path=folder, expected="target= and adapters=")
        checks = verify(
            folder,
            target=None if target is None else Path(target),
            adapters=[Path(adapter) for adapter in adapters],
            threads=count,
            advance=progress,
        )
    return Verification(tuple(checks))


def compare(first: StrPath | Adapter, second: StrPath | Adapter, *, progress: Progress = int) -> Comparison:
    """Measure how far the first adapter's delta is from the second's, whatever their factors are."""
    from contextgraft.adapter.analysis.compare import compare, total

    left, right = (side if isinstance(side, Adapter) else open_adapter(side) for side in (first, second))
    distances = compare(left, right, progress)
    return Comparison(tuple(distances), total(distances))


def align(
    base: StrPath,
    donor: StrPath,
    target: StrPath,
    out: StrPath | None = None,
    *,
    include: str = "",
    exclude: str | None = None,
    embeddings: Embeddings | None = None,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress = int,
) -> AlignmentResult:
    """Measure norms of, and the cosine between, donor minus base and target minus base, tensor by tensor.

    With `out`, the result is also written there as a Parquet file.
    """
    from contextgraft.adapter.analysis.alignment import align
    from contextgraft.adapter.analysis.model_triple import open_triple
    from contextgraft.checkpoint.replaceable import check_apart
    from contextgraft.formats.alignment import write

    selection = _selection(include, exclude, embeddings)
    folders = Path(base), Path(donor), Path(target)
    if out is not None:
        check_apart(Path(out), folders)
    models = open_triple(*folders, selection)
    result = align(models, threads=_threads(threads), device=device, advance=progress)
    if out is not None:
        write(result, Path(out))
    return result


def _selection(include: str, exclude: str | None, embeddings: Embeddings | None) -> TensorSelection:
    try:
        re.compile(include), re.compile(exclude or "")
    except re.error as error:
        raise InputError(
            "include or exclude is not a regular expression", received=f"{error.pattern!r}: {error.msg}"
        ) from None
    both = TensorRole.INPUT, TensorRole.OUTPUT
    roles = tuple(role for role in both if embeddings in (role.value, "both"))
    return TensorSelection(include, exclude, roles)


def _threads(requested: int | None) -> int:
    return requested or os.cpu_count() or 1
