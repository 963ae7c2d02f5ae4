"""Where the figures come from: models, prompts, versions, files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextgraft.report.statistics.cells import Who, who

SOFTWARE = ("contextgraft", "torch", "transformers", "lm_eval")


@dataclass(frozen=True)
class Model:
    """One model of the samples."""

    role: str
    label: str
    digest: str
    samples: int


def models(labels: Iterable[Mapping[str, Any]], shown: Mapping[Who, str]) -> list[Model]:
    """Every model with its role, in words, and its digest."""
    rows = [Model(_role(row, shown), row["label"], row["digest"], row["samples"]) for row in labels]
    return sorted(rows, key=lambda model: (model.role, model.label, model.digest))


def versions(asked: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Versions of the software that answered; more than one if the samples were made by several."""
    found = [(name, sorted({row[name] for row in asked if row[name]})) for name in SOFTWARE]
    return [(name, ", ".join(values) or "not recorded") for name, values in found]


def seeds(asked: Sequence[Mapping[str, Any]]) -> str:
    """Seeds of the prompts."""
    return ", ".join(str(seed) for seed in sorted({row["seed"] for row in asked}))


ROLES = {"base": "base", "donor": "donor", "alone": "fine-tune", "other": "other"}


def _role(row: Mapping[str, Any], shown: Mapping[Who, str]) -> str:
    if row["role"] in ROLES:
        return ROLES[row["role"]]
    target = shown.get(who(row), "")
    if row["role"] == "theta":
        return f"{target}, theta only"
    scale = "" if row["scale"] == 1 else f" × {row['scale']:g}"
    return f"{target}, graft r{row['rank']}{scale}, from {row['donor_name'] or 'a donor'}"
