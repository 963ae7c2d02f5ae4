"""What a merge will do: adapters and a target that fit each other, checked before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contextgraft.adapter.compute.tiles import MERGE_TILE
from contextgraft.adapter.extract.model_pair import LIBRARY_BYTES
from contextgraft.adapter.file_warnings import file_warnings
from contextgraft.adapter.merge.fit import Fit, ScaledAdapter, fit
from contextgraft.adapter.merge.graft_config import (
    ContextSettings,
    attention_warnings,
    graft_config,
    kept_settings,
    recorded_settings,
    rope_for,
)
from contextgraft.adapter.merge.layout import GraftLayout, lay_out
from contextgraft.adapter.merge.positions import check_length
from contextgraft.adapter.merge.target import check_vocabulary
from contextgraft.adapter.merge.tokens import TOKENIZER_FILES, lost_template
from contextgraft.checkpoint.full_precision import check_full_precision
from contextgraft.checkpoint.model_folder import ModelFolder, open_model
from contextgraft.errors import InputError, MismatchError
from contextgraft.formats.architecture import check_architecture
from contextgraft.formats.model.copied_files import other_weights, split_files
from contextgraft.formats.model.own_files import check_own_files
from contextgraft.rope import settings
from contextgraft.rope.older_readers import older_reader_warnings
from contextgraft.rope.travelling import Setting

if TYPE_CHECKING:
    from contextgraft.adapter.lora.array_deltas import ArrayDelta
    from contextgraft.adapter.lora.deltas import TensorDelta

ARRAY_DTYPES = ("BF16", "F32")  # of targets, that numpy can round to
__all__ = ["MergePlan", "ScaledAdapter", "plan_merge"]


@dataclass(frozen=True)
class MergePlan:
    """Adapters to be merged into one target, and how they fit it.

    `context` are the result's settings, `rope_from` is their origin: "adapter", "given" or "target"; `config`
    is its config.json.
    """

    adapters: tuple[ScaledAdapter, ...]
    target: ModelFolder
    context: ContextSettings
    rope_from: str
    rounding: str
    fit: Fit
    config: dict[str, Any]

    @property
    def rope(self) -> settings.RopeSettings:
        """The RoPE settings of the result."""
        return self.context.rope

    @property
    def active(self) -> tuple[ScaledAdapter, ...]:
        """The adapters that change weights."""
        return tuple(scaled for scaled in self.adapters if scaled.scale)

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the graft's tensors that get a delta or are new."""
        return tuple(sorted(self.fit.changes))

    @property
    def replaced(self) -> tuple[str, ...]:
        """Names of the tensors that an adapter overwrites."""
        return tuple(sorted(name for name, change in self.fit.changes.items() if change.replaces))

    def deltas(self, name: str, device: str) -> "list[TensorDelta]":
        """The deltas of one changed tensor, one of each adapter that has it."""
        return [item.load(device) for item in self.fit.changes[name].entries]

    def uses_arrays(self, name: str, device: str) -> bool:
        """Whether numpy computes a changed tensor, without PyTorch, whose import takes a second."""
        change = self.fit.changes[name]
        plain = device == "cpu" and self.rounding == "nearest"
        dtype = self.target[change.source].dtype
        return plain and dtype in ARRAY_DTYPES and all(item.entry.has_arrays for item in change.entries)

    def array_deltas(self, name: str) -> "list[ArrayDelta]":
        """As `deltas`, of a tensor that numpy computes."""
        return [item.load_arrays() for item in self.fit.changes[name].entries]

    @cached_property
    def layout(self) -> GraftLayout:
        """The graft's weight files: names, tensors and offsets."""
        return lay_out(self.target, self.fit.changes)

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
    def origins(self) -> dict[str, Path]:
        """Folder of every other file that is copied, by the name that it has there and in the graft."""
        names, _ = split_files(self.target.others)
        folder = self.fit.tokenizer
        if folder is None:
            return dict.fromkeys(names, self.target.path)
        kept = {name: self.target.path for name in names if name not in TOKENIZER_FILES}
        return kept | {name: folder for name in TOKENIZER_FILES if (folder / name).is_file()}

    @property
    def tokenizer_files(self) -> tuple[Path, ...]:
        """Files of a tokenizer that comes from an adapter's folder."""
        folder = self.fit.tokenizer
        return tuple(origin / name for name, origin in self.origins.items() if origin == folder)

    @property
    def copied(self) -> tuple[str, ...]:
        """Names of the other files that are copied: all that still describe the graft."""
        return tuple(sorted(self.origins))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Files that would be the target's, not the graft's: other weights, and what describes them."""
        return split_files(self.target.others)[1]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about differences that are allowed."""
        before = settings.read_any_length(self.target.config, self.target.path)
        warnings = list(self.fit.warnings) + other_weights(self.target, "the graft is")
        if self.fit.tokenizer is not None:
            warnings += lost_template(self.fit.tokenizer, self.target)
        for scaled in self.adapters:
            if scaled.scale:
                warnings += file_warnings(scaled.adapter, self.target)
            if scaled.adapter.sidecar is None:
                continue
            base = settings.from_json(scaled.adapter.sidecar["rope"]["base"])
            base = rope_for(self.target.config, base, self.target.path)
            if before != base:
                warnings.append(
                    f"{self.target.path}: RoPE ({before.description}, type {before.rope_type}) differs from "
                    f"the base's ({base.description}, {base.rope_type})"
                )
        adapters = [scaled.adapter for scaled in self.adapters]
        lines = kept_settings(self.target.config, self.context, adapters)
        if self.rope_from != "target":
            lines += attention_warnings(self.target.config, self.context, adapters)
            lines += older_reader_warnings(self.config)
        warnings += [f"{self.target.path}: {text}" for text in lines]
        if self.replaced:
            warnings.append(f"{self.target.path}: its own {', '.join(self.replaced)} will be overwritten")
        return tuple(dict.fromkeys(warnings))


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
    for folder in (target_path, *(scaled.adapter.path for scaled in adapters)):
        check_own_files(folder)
    for scaled in adapters:
        if scaled.scale:
            check_full_precision(target, f"the adapter {scaled.adapter.path}")
    fitted = fit(adapters, target, replace_modules=replace_modules)
    for scaled in adapters:
        if scaled.adapter.sidecar is not None:
            check_architecture(
                target, f"the adapter {scaled.adapter.path}", scaled.adapter.sidecar["architecture"]
            )
    check_vocabulary(target)
    source, context = _context(adapters, target, rope, attention, keep_rope)
    try:
        config = target.config if keep_rope else graft_config(target.config, context)
    except (InputError, MismatchError) as error:
        raise MismatchError(f"cannot take the donor's context: {error}", path=target.path) from None
    lengths = (settings.read_any_length(values, target.path) for values in (target.config, config))
    before, after = (length.max_positions for length in lengths)
    check_length(target, {name: change.rows for name, change in fitted.changes.items()}, before, after)
    return MergePlan(tuple(adapters), target, context, source, rounding, fitted, config)


def _context(
    adapters: Sequence[ScaledAdapter],
    target: ModelFolder,
    rope: settings.RopeSettings | None,
    attention: Mapping[str, Setting] | None,
    keep_rope: bool,
) -> tuple[str, ContextSettings]:
    """The settings of the result, and their origin."""
    if keep_rope:
        return "target", ContextSettings(settings.read_any_length(target.config, target.path))
    if rope is not None:
        source, context = "given", ContextSettings(rope, attention or {})
    else:
        source, context = "adapter", recorded_settings([scaled.adapter for scaled in adapters])
    return source, replace(context, rope=rope_for(target.config, context.rope, target.path))
