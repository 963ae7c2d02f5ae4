"""Arguments of commands as lists of words; the control rows of a study as arguments of `evaluate`."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from contextgraft.config.control_names import FROM_DONOR, FROM_SHORT_DONOR, OF_NO_DONOR, ControlName
from contextgraft.config.target_sheet import SHORT_DONOR
from contextgraft.workflow.paths import StudyPaths


def repeated(option: str, values: Iterable[object]) -> list[str]:
    """An option once for each value, as one word: a value that starts with a dash is not another option."""
    return [f"{option}={value}" for value in values]


def labelled(option: str, values: Mapping[str, object]) -> list[str]:
    """An option once for each label, whose value is LABEL=VALUE."""
    return repeated(option, [f"{label}={value}" for label, value in values.items()])


def control_labels(
    target: str, controls: Sequence[ControlName], seeds: Sequence[int], kind: str
) -> dict[str, str]:
    """NAME:ADAPTER by the label of each control; the adapters are those of `kind`.

    A control that does not depend on the donor is evaluated for the first seed only.
    """
    return {
        f"{target}-s{seed}-{name.replace('_', '-')}": f"{name}:{target}-s{seed}-{kind}"
        for name, seed in product(controls, seeds)
        if seed == seeds[0] or name not in OF_NO_DONOR
    }


def control_models(
    controls: Sequence[ControlName], paths: StudyPaths, donors: Sequence[str]
) -> list[tuple[str, str]]:
    """Options of `contextgraft evaluate`, and the manifests of their models, in addition to the base."""
    given = [("--donor", file) for file in donors] if FROM_DONOR in controls else []
    if FROM_SHORT_DONOR in controls:
        given.append(("--short-donor", paths.model.format(model=SHORT_DONOR)))
    return given
