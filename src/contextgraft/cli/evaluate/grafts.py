"""The grafts that `contextgraft evaluate` makes in memory: an adapter at a scale, or a control."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path

import click

from contextgraft.adapter.in_memory.controls import CONTROLS
from contextgraft.adapter.in_memory.controls.base import ControlInputs, FolderDigests
from contextgraft.adapter.in_memory.graft import prepare_graft
from contextgraft.adapter.lora.adapter import Adapter, open_adapter
from contextgraft.adapter.merge.plan import MergePlan, ScaledAdapter, plan_merge
from contextgraft.checkpoint.input_files import unchanged
from contextgraft.cli.evaluate.records import NO_RECORDS, GraftRecords
from contextgraft.cli.graft_options import DEFAULTS, GraftOptions
from contextgraft.config.control_names import FROM_DONOR, FROM_SHORT_DONOR, ControlName
from contextgraft.errors import ContextgraftError, InputError, with_suggestion
from contextgraft.evaluation.models import EvalModel, variant_model
from contextgraft.formats.refusal import is_final
from contextgraft.formats.samples import CONTROL

OpenAdapter = Callable[[Path], Adapter]
PlanGraft = Callable[[Path], MergePlan]  # from the folder of a target; raises what `merge` would raise

UNKNOWN = ""  # the donor of an adapter that cannot be read


@dataclass(frozen=True)
class GraftVariant:
    """One graft of a target: a ModelVariant.

    `control` is the control's name, None for a graft. The small files go to `folder`; `threads` tensors are
    computed at once. `records` collects the manifest that `merge` would write, or the refusal.
    """

    label: str
    control: str | None
    plan: PlanGraft
    folder: Path
    threads: int
    records: GraftRecords = NO_RECORDS

    def open(self, target: EvalModel, *, identify: bool = True) -> EvalModel:
        """The graft of an opened target; raises what `merge` would raise."""
        try:
            with unchanged(target.inputs):
                return self._open(target, identify=identify)
        except ContextgraftError as error:
            if identify and is_final(error):
                self.records.refuse(self.label, "merge", error)
            raise

    def _open(self, target: EvalModel, *, identify: bool) -> EvalModel:
        graft = prepare_graft(self.plan(target.path), self.folder, target.tensor_digests, self.threads)
        digests = graft.digests if identify else {}
        origin = {**graft.origin, CONTROL: self.control}
        model = variant_model(self.label, graft.model, origin, digests, graft.tensors)
        if identify and self.label in self.records.folders:
            self.records.contents[self.label] = graft.manifest
        return model


@dataclass(frozen=True)
class LabelledAdapter:
    """An adapter of the command line: its label, which is its folder's name by default, and its folder."""

    label: str
    path: Path


ByDonor = dict[str, list[LabelledAdapter]]  # by the digest of the donor


@dataclass(frozen=True)
class ControlModels:
    """Folders that controls of full rank need: the base, the donors, one trained on short texts only.

    Their digests are computed once for all fine-tunes and controls of a command.
    """

    base: Path | None = None
    donors: tuple[Path, ...] = ()
    short_donor: Path | None = None
    digests: FolderDigests = field(default_factory=FolderDigests)


NO_MODELS = ControlModels()


@dataclass(frozen=True)
class _PlannedVariant:
    """A graft before it has a folder; `donor` groups the rows of one donor."""

    donor: str
    label: str
    control: str | None
    plan: PlanGraft


def graft_variants(
    adapters: Sequence[tuple[str | None, Path]],
    scales: Sequence[float],
    controls: Sequence[str],
    folder: Path,
    threads: int,
    *,
    records: GraftRecords = NO_RECORDS,
    models: ControlModels = NO_MODELS,
    options: GraftOptions = DEFAULTS,
) -> list[GraftVariant]:
    """For each donor, each of its adapters at each scale, then its controls; all with the same `options`.

    `records` are those of --record. A control or a folder that does not exist raises an error; any other
    error belongs to one graft.
    """
    named = labelled_adapters(adapters)
    opened: OpenAdapter = cache(open_adapter)
    planned = [
        *_adapter_plans(named, scales, opened, options),
        *_control_plans(controls, named, opened, models, options),
    ]
    donors = list(dict.fromkeys(item.donor for item in planned))
    planned.sort(key=lambda item: donors.index(item.donor))
    check_known_labels("--record", records.folders, [item.label for item in planned])
    return [
        GraftVariant(
            item.label, item.control, item.plan, folder / f"{number}-{_file_name(item.label)}", threads,
            records,
        )
        for number, item in enumerate(planned)
    ]  # fmt: skip


def labelled_adapters(adapters: Sequence[tuple[str | None, Path]]) -> list[LabelledAdapter]:
    """The adapters with their labels; InputError for an empty or a repeated one, or a missing folder."""
    named: dict[str, Path] = {}
    for label, path in adapters:
        if label == "":
            raise InputError("the label is empty", path=path, expected="LABEL=ADAPTER")
        if not path.is_dir():
            raise InputError("no such adapter folder", path=path)
        name = label or path.resolve().name
        if name in named:
            other, remedy = f"{named[name]} too", "give them different labels: --adapter LABEL=ADAPTER"
            raise InputError(f"two adapters are labelled {name!r}", path=path, received=other, remedy=remedy)
        named[name] = path
    return [LabelledAdapter(name, path) for name, path in named.items()]


def check_known_labels(option: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raise click.BadParameter for a label that no graft, or no adapter, has."""
    for label in given:
        if label not in known:
            raise click.BadParameter(
                _misspelt(f"nothing is labelled {label!r}", label, known), param_hint=option
            )


def _adapter_plans(
    adapters: Sequence[LabelledAdapter], scales: Sequence[float], opened: OpenAdapter, options: GraftOptions
) -> list[_PlannedVariant]:
    return [
        _PlannedVariant(
            _donor(adapter.path, opened),
            adapter.label if scale == 1 else f"{adapter.label}@{scale!r}",
            None,
            partial(_merge_plan, options, opened, adapter.path, scale),
        )
        for adapter, scale in product(adapters, dict.fromkeys(scales))
    ]


def _control_plans(
    controls: Sequence[str],
    adapters: Sequence[LabelledAdapter],
    opened: OpenAdapter,
    models: ControlModels,
    options: GraftOptions,
) -> list[_PlannedVariant]:
    """The controls: [LABEL=]NAME for each donor, [LABEL=]NAME:ADAPTER for the donor of that adapter.

    The adapters of one donor share their settings. The label is the control's name; of several donors, with
    the label of the donor's first adapter.
    """
    by_donor = _by_donor(adapters, opened)
    plans = []
    for control in controls:
        label, equals, words = control.rpartition("=")
        given, colon, chosen = words.partition(":")
        name = known_control(given)
        _check_models(name, models)
        if equals and not label:
            raise click.BadParameter("the label is empty; expected LABEL=NAME", param_hint="--control")
        if colon:
            check_known_labels("--control", [chosen], [adapter.label for adapter in adapters])
        used = _of_adapter(chosen, by_donor) if colon else _readable(by_donor)
        if label and len(used) > 1:
            raise click.BadParameter(
                f"{control!r} is a label for {len(used)} donors; expected LABEL={name}:ADAPTER for each",
                param_hint="--control",
            )
        plans += [
            _PlannedVariant(
                donor,
                label or (name if len(used) == 1 else f"{name} {own[0].label}"),
                name,
                partial(
                    _control_plan, name, opened, [adapter.path for adapter in own], models, options=options
                ),
            )
            for donor, own in used.items()
        ]
    return plans


def known_control(name: str) -> ControlName:
    """The control of that name; click.BadParameter for another name."""
    for known in CONTROLS:
        if known == name:
            return known
    raise click.BadParameter(
        _misspelt(f"no control is named {name!r}", name, CONTROLS), param_hint="--control"
    )


def _misspelt(what: str, word: str, known: Iterable[str]) -> str:
    return with_suggestion(f"{what}; expected one of {', '.join(known)}", word, known)


def _check_models(name: ControlName, models: ControlModels) -> None:
    needed: dict[ControlName, dict[str, object]] = {
        FROM_DONOR: {"--base": models.base, "--donor": models.donors},
        FROM_SHORT_DONOR: {"--base": models.base, "--short-donor": models.short_donor},
    }
    missing = [option for option, folder in needed.get(name, {}).items() if not folder]
    if missing:
        raise click.UsageError(f"--control {name} needs {' and '.join(missing)}")


def _by_donor(adapters: Sequence[LabelledAdapter], opened: OpenAdapter) -> ByDonor:
    donors: ByDonor = {}
    for adapter in adapters:
        donors.setdefault(_donor(adapter.path, opened), []).append(adapter)
    return donors


def _readable(donors: ByDonor) -> ByDonor:
    """The adapters of each donor; those that cannot be read only if there are no others.

    The row of such an adapter itself says why it cannot be used.
    """
    return {donor: own for donor, own in donors.items() if donor != UNKNOWN} or donors


def _of_adapter(label: str, donors: ByDonor) -> ByDonor:
    """The donor of one adapter, with all of its adapters; of one that cannot be read, that adapter alone."""
    donor = next(donor for donor, own in donors.items() if label in [adapter.label for adapter in own])
    alone = [adapter for adapter in donors[donor] if adapter.label == label]
    return {donor: alone if donor == UNKNOWN else donors[donor]}


def _donor(path: Path, opened: OpenAdapter) -> str:
    """The digest of an adapter's donor, or the adapter's folder; UNKNOWN for one that cannot be read."""
    try:
        return str(opened(path).origin["donor"]["digest"] or path.resolve())
    except ContextgraftError:
        return UNKNOWN


def _file_name(label: str) -> str:
    """The label as the end of a folder's name, by which error messages show it."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in label)[:80]


def _merge_plan(
    options: GraftOptions, opened: OpenAdapter, path: Path, scale: float, target: Path
) -> MergePlan:
    adapter = opened(path)
    return plan_merge([ScaledAdapter(adapter, scale)], target, **options.arguments([adapter], target))


def _control_plan(
    name: ControlName,
    opened: OpenAdapter,
    paths: Sequence[Path],
    models: ControlModels,
    target: Path,
    *,
    options: GraftOptions,
) -> MergePlan:
    adapters = tuple(opened(path) for path in paths)
    arguments = options.arguments(adapters, target)
    return CONTROLS[name](
        ControlInputs(
            target, adapters, arguments, models.base, models.donors, models.short_donor, models.digests
        )
    )
