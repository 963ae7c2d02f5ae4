"""The options of `merge` and `evaluate --adapter` that decide what a graft is; one resolution for both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contextgraft.cli.option_types import Choice
from contextgraft.cli.options import PATH

if TYPE_CHECKING:
    from contextgraft.adapter.lora.adapter import Adapter

ROUNDINGS = ("nearest", "stochastic")
GRAFT_OPTIONS = (
    click.option(
        "--rope-from",
        type=PATH,
        help="Model or adapter whose RoPE, attention and length the grafts get.",
    ),
    click.option(
        "--keep-rope", is_flag=True, help="Keep RoPE, attention settings and context length of each target."
    ),
    click.option(
        "--rounding", type=Choice(ROUNDINGS), default=ROUNDINGS[0], show_default=True,
        help="Rounding to the target's dtype; stochastic keeps small deltas in expectation.",
    ),
    click.option(
        "--replace-modules",
        is_flag=True,
        help="Allow modules_to_save and trained biases to replace the target's.",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class GraftOptions:
    """The values of `GRAFT_OPTIONS`."""

    rope_from: Path | None = None
    keep_rope: bool = False
    rounding: str = ROUNDINGS[0]
    replace_modules: bool = False

    def __post_init__(self) -> None:
        if self.keep_rope and self.rope_from:
            raise click.UsageError("--keep-rope and --rope-from cannot be combined")

    def check_folder(self) -> None:
        """Raise InputError if the folder of --rope-from has no settings that a graft could get."""
        from contextgraft.adapter.merge.graft_config import context_of

        if self.rope_from is not None:
            context_of(self.rope_from, self.rope_from)

    def arguments(self, adapters: "Sequence[Adapter]", target: Path) -> dict[str, Any]:
        """The arguments of `plan_merge` for these adapters and one target."""
        from contextgraft.adapter.merge.graft_config import context_of
        from contextgraft.cli.published_rope import published_rope

        context: dict[str, Any] = {"keep_rope": True} if self.keep_rope else {}
        if self.rope_from is not None:
            context = context_of(self.rope_from, target)
        elif not self.keep_rope:
            context = published_rope(adapters)
        return {"rounding": self.rounding, "replace_modules": self.replace_modules, **context}

    def record(self, target: Path) -> dict[str, Any]:
        """What a recommendation says of them, as plain JSON values; empty for the defaults.

        --replace-modules is a permission: with and without it, a graft that is allowed is the same.
        """
        from contextgraft.adapter.merge.graft_config import context_of
        from contextgraft.rope import settings, travelling

        content: dict[str, Any] = {"keep_rope": True} if self.keep_rope else {}
        if self.rounding != ROUNDINGS[0]:
            content["rounding"] = self.rounding
        if self.rope_from is not None:
            context = context_of(self.rope_from, target)
            content["rope"] = settings.to_record(context["rope"])
            content["attention"] = travelling.to_json(context["attention"] or {})
        return content


DEFAULTS = GraftOptions()


def recorded_arguments(content: Mapping[str, Any], adapters: "Sequence[Adapter]") -> dict[str, Any]:
    """The arguments of `plan_merge` from `GraftOptions.record`; InputError if it is malformed."""
    from contextgraft.cli.published_rope import published_rope
    from contextgraft.rope import settings, travelling

    if content.get("keep_rope"):
        context: dict[str, Any] = {"keep_rope": True}
    elif "rope" in content:
        attention = travelling.from_json(content.get("attention", {}))
        context = {"rope": settings.from_json(content["rope"]), "attention": attention}
    else:
        context = published_rope(adapters)
    return {"rounding": content.get("rounding", ROUNDINGS[0]), **context}
