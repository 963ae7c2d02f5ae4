"""What a merge will do: adapters and a target that fit each other, checked before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from contextgraft.adapter.architecture import check_architecture, check_shape
from contextgraft.adapter.compute.tiles import MERGE_TILE
from contextgraft.adapter.extract.model_pair import LIBRARY_BYTES
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.merge.graft_config import (
    ContextSettings,
    attention_warnings,
    graft_config,
    recorded_settings,
)
from contextgraft.checkpoint.full_precision import check_full_precision
from contextgraft.checkpoint.model_folder import PICKLES, ModelFolder, open_model
from contextgraft.checkpoint.vocabulary import correspondence, read_vocabulary
from contextgraft.errors import InputError, MismatchError
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.formats.tensor_names import FLOATS, input_embedding, rows_are_tokens
from contextgraft.rope import settings
from contextgraft.rope.text_section import text_section
from contextgraft.rope.travelling import Setting

if TYPE_CHECKING:
    from contextgraft.adapter.lora.deltas import TensorDelta

OTHER_FORMATS = (*PICKLES, ".safetensors", ".gguf", ".onnx", ".onnx_data", ".h5", ".msgpack", ".npz")


@dataclass(frozen=True)
class ScaledAdapter:
    """An adapter and the factor on its delta; scale 0 changes only RoPE."""

    adapter: Adapter
    scale: float = 1.0


@dataclass(frozen=True)
class MergePlan:
    """Adapters to be merged into one target; `rows` maps its tokens to an adapter's, if they differ.

    `context` are the result's settings, `rope_from` is their origin: "adapter", "given" or "target"; `config`
    is its config.json.
    """

    adapters: tuple[ScaledAdapter, ...]
    target: ModelFolder
    context: ContextSettings
    rope_from: str
    rounding: str
    rows: dict[Path, list[int]]
    config: dict[str, Any]

    @property
    def rope(self) -> settings.RopeSettings:
        """The RoPE settings of the result."""
        return self.context.rope

    @property
    def active(self) -> tuple[ScaledAdapter, ...]:
        """The adapters that change weights."""
        return tuple(scaled for scaled in self.adapters if scaled.scale)

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that get a delta."""
        return tuple(sorted({name for scaled in self.active for name in scaled.adapter.entries}))

    @property
    def replaced(self) -> tuple[str, ...]:
        """Names of the tensors that an adapter overwrites."""
        return tuple(sorted({name for scaled in self.active for name in scaled.adapter.replaced}))

    def deltas(self, name: str, device: str) -> "list[TensorDelta]":
        """The deltas of one tensor, an adapter each."""
        rows = self.rows if rows_are_tokens(name) else {}
        return [
            scaled.adapter.delta(name, scaled.scale, rows.get(scaled.adapter.path), device)
            for scaled in self.active
            if name in scaled.adapter.entries
        ]

    @property
    def bytes_to_read(self) -> int:
        """Bytes of the target's tensors."""
        return sum(info.bytes for info in self.target.tensors.values())

    def peak_bytes(self, threads: int) -> int:
        """Estimate of the memory in addition to the program's own: tiles and factors."""
        held = sum(
            max((sum(entry.shape) for entry in scaled.adapter.factors.values()), default=0)
            * scaled.adapter.rank
            for scaled in self.active
        )
        return LIBRARY_BYTES + threads * 4 * (6 * MERGE_TILE + 3 * held)

    @property
    def copied(self) -> tuple[str, ...]:
        """Other files that are copied: all but weights in other formats, which would not be the graft's."""
        return tuple(name for name in self.target.others if not _is_other_format(name))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Weights in other formats, such as pickles, which are not copied."""
        return tuple(name for name in self.target.others if _is_other_format(name) and name != SIDECAR)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about differences that are allowed."""
        before = settings.read(self.target.config, self.target.path)
        found = []
        for scaled in self.adapters:
            if scaled.adapter.sidecar is None:
                continue
            base = settings.from_json(scaled.adapter.sidecar["rope"]["base"])
            if before != base:
                found.append(
                    f"{self.target.path}: RoPE (theta {before.theta:g}, {before.max_positions} positions) "
                    f"differs from the base's (theta {base.theta:g}, {base.max_positions})"
                )
        if self.rope_from != "target":
            found += [
                f"{self.target.path}: {text}"
                for text in attention_warnings(
                    self.target.config, self.context, [scaled.adapter for scaled in self.adapters]
                )
            ]
        if self.replaced:
            found.append(f"{self.target.path}: its own {', '.join(self.replaced)} will be overwritten")
        return tuple(dict.fromkeys(found))


def plan_merge(
    adapters: Sequence[ScaledAdapter],
    target_path: Path,
    *,
    rope: settings.RopeSettings | None = None,
    attention: Mapping[str, Setting] | None = None,
    keep_rope: bool = False,
    rounding: str = "nearest",
    replace_modules: bool = False,
) -> MergePlan:
    """Open the target; any mismatch raises MismatchError naming both sides, before anything is written.

    RoPE and attention settings come from `rope` and `attention`, else from the adapters, which must agree;
    `keep_rope` keeps the target's.
    """
    target = open_model(target_path)
    for scaled in adapters:
        if scaled.scale:
            check_full_precision(target, f"the adapter {scaled.adapter.path}")
    for scaled in adapters:
        if scaled.scale:
            _check_fit(scaled.adapter, target, replace_modules)
        if scaled.adapter.sidecar is not None:
            check_architecture(
                target, f"the adapter {scaled.adapter.path}", scaled.adapter.sidecar["architecture"]
            )
    _check_replaced_once(adapters)
    _check_vocabulary(target)
    source, context = _context(adapters, target, rope, attention, keep_rope)
    try:
        config = target.config if keep_rope else graft_config(target.config, context)
    except (InputError, MismatchError) as error:
        raise MismatchError(f"cannot take the donor's context: {error}", path=target.path) from None
    rows = {scaled.adapter.path: _rows(scaled.adapter, target) for scaled in adapters if scaled.scale}
    differing = {path: found for path, found in rows.items() if found is not None}
    return MergePlan(tuple(adapters), target, context, source, rounding, differing, config)


def _context(
    adapters: Sequence[ScaledAdapter],
    target: ModelFolder,
    rope: settings.RopeSettings | None,
    attention: Mapping[str, Setting] | None,
    keep_rope: bool,
) -> tuple[str, ContextSettings]:
    """The settings of the result, and their origin."""
    if keep_rope:
        return "target", ContextSettings(settings.read(target.config, target.path))
    if rope is not None:
        return "given", ContextSettings(rope, attention or {})
    return "adapter", recorded_settings([scaled.adapter for scaled in adapters])


def _check_fit(adapter: Adapter, target: ModelFolder, replace_modules: bool) -> None:
    other = f"the adapter {adapter.path}"
    if adapter.replaced and not replace_modules:
        raise MismatchError(
            f"would overwrite {', '.join(adapter.replaced)} of the target",
            path=adapter.path,
            remedy="allow it with --replace-modules, or use an adapter of deltas only",
        )
    for name, entry in sorted(adapter.entries.items()):
        rows = target.tensors[name].shape[:1] if name in target.tensors and rows_are_tokens(name) else ()
        check_shape(target, name, other, (*rows, *entry.shape[len(rows) :]))
        if target[name].dtype not in FLOATS:  # F64
            raise MismatchError(
                f"tensor {name!r} cannot take a delta",
                path=target.path,
                expected=f"{', '.join(FLOATS)}, as {other} needs",
                received=target[name].dtype,
                remedy="use the target in another precision",
            )


def _check_replaced_once(adapters: Sequence[ScaledAdapter]) -> None:
    active = [scaled.adapter for scaled in adapters if scaled.scale]
    for name in sorted({name for adapter in active for name in adapter.replaced}):
        paths = [str(adapter.path) for adapter in active if name in adapter.entries]
        if len(paths) > 1:
            raise MismatchError(
                f"tensor {name!r} would be overwritten and changed", received=", ".join(paths)
            )


def _rows(adapter: Adapter, target: ModelFolder) -> list[int] | None:
    """The adapter's row for each row of the target's embeddings; None where they correspond."""
    entries = {name: entry for name, entry in sorted(adapter.entries.items()) if rows_are_tokens(name)}
    if not entries:
        return None
    counts = {(entry.shape[0], target[name].rows) for name, entry in entries.items()}
    if len(counts) > 1:
        raise MismatchError(
            f"does not fit the adapter {adapter.path}: embeddings of different lengths",
            path=target.path, received=f"{sorted(counts)} rows of adapter and target",
        )  # fmt: skip
    name, entry = next(iter(entries.items()))
    try:
        tokens = adapter.vocabulary
        own = None if tokens is None else read_vocabulary(target)
        return correspondence((own, target[name].rows), (tokens, entry.shape[0]))
    except MismatchError as error:
        raise MismatchError(f"does not fit the adapter {adapter.path}: {error}", path=target.path) from None


def _check_vocabulary(target: ModelFolder) -> None:
    """Raise MismatchError if config and embeddings of the target disagree; it may have other tokens."""
    size = text_section(target.config).get("vocab_size")
    name = input_embedding(target.tensors)
    if name is not None and size is not None and target[name].rows != size:
        raise MismatchError(
            f"config.json and tensor {name!r} disagree about the vocabulary",
            path=target.path,
            expected=f"{size} rows (vocab_size)",
            received=f"{target[name].rows}",
            remedy="the target is damaged: fetch it again",
        )


def _is_other_format(name: str) -> bool:
    return (
        PurePosixPath(name).suffix in OTHER_FORMATS
        or name == SIDECAR
        or name.endswith(".safetensors.index.json")
    )
