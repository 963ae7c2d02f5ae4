"""The config.json of a graft: the target's, with RoPE and the attention settings that the donor changed."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contextgraft.adapter.lora.adapter import Adapter, open_adapter
from contextgraft.checkpoint.model_folder import ADAPTER_CONFIG, MODEL_CONFIG, read_json
from contextgraft.errors import InputError, MismatchError
from contextgraft.formats.sidecar import SIDECAR
from contextgraft.rope.config_form import apply_rope
from contextgraft.rope.parameters import check_parameters, without_file
from contextgraft.rope.settings import RopeSettings, read_any_length
from contextgraft.rope.travelling import (
    OwnSetting,
    Setting,
    apply_settings,
    compare_configs,
    own_changes,
    own_values,
    to_json,
)

DIMENSIONS = "mrope"  # begins the names of settings of multi-dimensional RoPE


@dataclass(frozen=True)
class ContextSettings:
    """RoPE, and the position and attention settings, that a donor's long context was trained with."""

    rope: RopeSettings
    attention: Mapping[str, Setting] = field(default_factory=dict)


def graft_config(config: Mapping[str, Any], context: ContextSettings) -> dict[str, Any]:
    """A copy of the config with these settings; MismatchError or InputError where they cannot be written."""
    return apply_rope(apply_settings(config, context.attention), context.rope)


def rope_for(config: Mapping[str, Any], rope: RopeSettings, path: Path) -> RopeSettings:
    """A donor's RoPE settings for a target: how heads are divided among dimensions is the target's own.

    Multi-dimensional RoPE belongs to models with other towers: a text model is not given it, nor does a
    vision-language model lose it. A donor without any length, or with an unknown rotated fraction, leaves the
    target its own. `path` is the target's folder.
    """
    targets = read_any_length(config, path)
    if not rope.max_positions:
        rope = replace(rope, max_positions=targets.max_positions)
    rope = rope.with_fraction_of(targets)
    own = {key: value for key, value in targets.extra.items() if key.startswith(DIMENSIONS)}
    if own.keys() == {key for key in rope.extra if key.startswith(DIMENSIONS)}:
        return rope
    rest = {key: value for key, value in rope.extra.items() if not key.startswith(DIMENSIONS)}
    return replace(rope, extra=dict(sorted((rest | own).items())))


def context_of(path: Path, target: Path) -> dict[str, Any]:
    """RoPE and attention settings of a model folder, or of an adapter with a sidecar, for a target.

    They are the arguments `rope` and `attention` of `plan_merge`.
    """
    if not (path / ADAPTER_CONFIG).exists():
        config = read_json(path / MODEL_CONFIG)
        changed = compare_configs(read_json(target / MODEL_CONFIG), config, path).travelling
        return {"rope": read_any_length(config, path), "attention": changed}
    adapter = open_adapter(path)
    if adapter.rope is None:
        raise InputError(
            "has no record of the RoPE settings it was trained with", path=path, expected="a model folder"
        )
    return {"rope": _computable(adapter.rope, path), "attention": adapter.attention}


def check_one_rope(ropes: Sequence[tuple[Path, RopeSettings]]) -> None:
    """Raise MismatchError unless all adapters, each with its folder, have the same RoPE settings."""
    first = ropes[0][1]
    if any(rope.with_fraction_of(first) != first.with_fraction_of(rope) for _, rope in ropes):
        raise MismatchError(
            "the adapters were trained with different RoPE settings",
            received=", ".join(f"{path}: theta {rope.theta:g}" for path, rope in ropes),
            remedy="choose one with --rope-from",
        )


def _computable(rope: RopeSettings, path: Path) -> RopeSettings:
    """An adapter's recorded settings; InputError for parameters from which no frequencies can be computed."""
    layers = rope.by_layer_type or {"": {"rope_type": rope.rope_type, **rope.extra}}
    try:
        check_parameters({key: value for key, value in layers.items() if value}, "rope.donor")
    except InputError as error:
        raise InputError(without_file(error), path=path / SIDECAR, remedy="extract it again") from None
    return rope


def recorded_settings(adapters: Sequence[Adapter]) -> ContextSettings:
    """The settings in the adapters' sidecars, which must agree."""
    known = [adapter for adapter in adapters if adapter.rope is not None]
    if not known:
        raise InputError(
            "has no record of the RoPE settings it was trained with",
            path=adapters[0].path,
            expected=SIDECAR,
            remedy="name its donor with --rope-from, or keep the target's with --keep-rope",
        )
    ropes = [(adapter.path, _computable(adapter.rope, adapter.path)) for adapter in known if adapter.rope]
    check_one_rope(ropes)
    records = [adapter.attention for adapter in known if adapter.attention is not None]
    for record in records[1:]:
        if to_json(record) != to_json(records[0]):
            raise MismatchError(
                "the adapters were trained with different attention settings",
                received=" and ".join(f"{to_json(other)}" for other in (records[0], record)),
                remedy="choose one with --rope-from",
            )
    return ContextSettings(ropes[0][1], records[0] if records else {})


def attention_warnings(
    config: Mapping[str, Any], context: ContextSettings, adapters: Sequence[Adapter]
) -> list[str]:
    """What a user should know about attention settings: own ones that are lost, and what is not carried."""
    own = own_values(config, context.attention) if context.attention else {}
    warnings = [
        f"its own {name} ({own[name]}; the base's: {setting.base}) becomes the donor's: {setting.donor}"
        for name, setting in context.attention.items()
        if own[name] not in (setting.base, setting.donor)
    ]
    for adapter in adapters:
        if adapter.sidecar is not None and adapter.attention is None:
            warnings.append(
                f"the adapter {adapter.path} has no record of attention settings: an older version wrote it; "
                "only RoPE is applied; extract it again if its donor changed a sliding window"
            )
        values = own_values(config, adapter.not_carried) if adapter.not_carried else {}
        warnings += [
            f"its {name} ({values[name]}) is not the one that the donor of {adapter.path} was trained with "
            f"({setting.donor}); a merge does not change it"
            for name, setting in adapter.not_carried.items()
            if values[name] != setting.donor
        ]
    return warnings


def kept_settings(
    config: Mapping[str, Any], context: ContextSettings, adapters: Sequence[Adapter]
) -> list[str]:
    """Warnings of position and attention settings that the target changed against the base and keeps."""
    changed: dict[str, OwnSetting] = {}
    for adapter in adapters:
        if adapter.base_attention is not None:
            with suppress(InputError):  # the target's class has no such settings
                changed |= own_changes(config, adapter.base_attention)
    return [
        f"its own {name} ({setting.own}; the base's: {setting.base}) stays; "
        "the adapter was trained without it"
        for name, setting in changed.items()
        if name not in context.attention
    ]
