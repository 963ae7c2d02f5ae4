"""The grafts that `contextgraft evaluate` makes in memory: an adapter at a scale, or a control."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import click

from contextgraft.adapter.in_memory.controls import CONTROLS
from contextgraft.adapter.in_memory.controls.base import ControlInputs
from contextgraft.adapter.in_memory.graft import prepare_graft
from contextgraft.adapter.lora.adapter import Adapter, open_adapter
from contextgraft.adapter.merge.plan import MergePlan, ScaledAdapter, plan_merge
from contextgraft.checkpoint.input_files import unchanged
from contextgraft.errors import ContextgraftError, InputError
from contextgraft.evaluation.models import EvalModel, variant_model
from contextgraft.formats.samples import CONTROL

OpenAdapter = Callable[[Path], Adapter]
PlanGraft = Callable[[Path], MergePlan]  # from the folder of a target; raises what `merge` would raise


@dataclass(frozen=True)
class GraftVariant:
    """One graft of a target: a ModelVariant.

    `control` is the control's name, None for a graft. The small files go to `folder`; `threads` tensors are
    computed at once.
    """

    label: str
    control: str | None
    plan: PlanGraft
    folder: Path
    threads: int

    def open(self, target: EvalModel, *, identify: bool = True) -> EvalModel:
        """The graft of an opened target; raises what `merge` would raise."""
        with unchanged(target.inputs):
            graft = prepare_graft(self.plan(target.path), self.folder, target.tensor_digests, self.threads)
            digests = graft.digests if identify else {}
            origin = {**graft.origin, CONTROL: self.control}
            return variant_model(self.label, graft.model, origin, digests, graft.tensors)


def graft_variants(
    adapters: Sequence[tuple[str | None, Path]],
    scales: Sequence[float],
    controls: Sequence[str],
    folder: Path,
    threads: int,
) -> list[GraftVariant]:
    """The controls of each donor, then each adapter at each scale.

    A control or a folder that does not exist raises an error; any other error belongs to one graft.
    """
    check_controls(controls)
    for label, path in adapters:
        if label == "":
            raise InputError("the label is empty", path=path, expected="LABEL=ADAPTER")
        if not path.is_dir():
            raise InputError("no such adapter folder", path=path)
    named = [(label or path.resolve().name, path) for label, path in adapters]
    opened: OpenAdapter = cache(open_adapter)
    plans: list[tuple[str | None, str, PlanGraft]] = [
        *control_plans(controls, named, opened),
        *(
            (None, label if scale == 1 else f"{label}@{scale!r}", partial(_merge_plan, opened, path, scale))
            for (label, path), scale in product(named, dict.fromkeys(scales))
        ),
    ]
    return [
        GraftVariant(label, control, plan, folder / f"{number}-{_file_name(label)}", threads)
        for number, (control, label, plan) in enumerate(plans)
    ]


def check_controls(names: Sequence[str]) -> None:
    """Raise click.BadParameter for a control that does not exist."""
    for name in names:
        if name not in CONTROLS:
            raise click.BadParameter(
                f"no control is named {name!r}; expected one of {', '.join(CONTROLS)}",
                param_hint="--control",
            )


def control_plans(
    controls: Sequence[str], adapters: Sequence[tuple[str, Path]], opened: OpenAdapter
) -> list[tuple[str, str, PlanGraft]]:
    """Name, label and plan of each control with the adapters of each donor, which share their settings.

    The label is the control's name; of several donors, with the label of the donor's first adapter.
    """
    by_donor: dict[str | None, list[tuple[str, Path]]] = {}
    for label, path in adapters:
        by_donor.setdefault(_donor(path, opened), []).append((label, path))
    if len(by_donor) > 1:
        by_donor.pop(None, None)  # the row of the adapter itself says why it cannot be used
    return [
        (
            name,
            name if len(by_donor) == 1 else f"{name} {own[0][0]}",
            partial(_control_plan, name, opened, [path for _, path in own]),
        )
        for name, own in product(controls, by_donor.values())
    ]


def _donor(path: Path, opened: OpenAdapter) -> str | None:
    """The digest of an adapter's donor, or the adapter's folder; None for one that cannot be read."""
    try:
        return str(opened(path).origin["donor"]["digest"] or path.resolve())
    except ContextgraftError:
        return None


def _file_name(label: str) -> str:
    """The label as the end of a folder's name, by which error messages show it."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in label)[:80]


def _merge_plan(opened: OpenAdapter, path: Path, scale: float, target: Path) -> MergePlan:
    return plan_merge([ScaledAdapter(opened(path), scale)], target)


def _control_plan(name: str, opened: OpenAdapter, paths: Sequence[Path], target: Path) -> MergePlan:
    return CONTROLS[name](ControlInputs(target, tuple(opened(path) for path in paths)))
