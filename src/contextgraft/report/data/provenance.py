"""Where the scores come from: models, prompts, software versions, files: pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextgraft.report.statistics.cells import ModelKey, model_key
from contextgraft.report.statistics.study_table import graft_label

SOFTWARE = ("contextgraft", "torch", "transformers", "lm_eval")
ROLES = {"base": "base", "donor": "donor", "alone": "fine-tune", "other": "other"}


@dataclass(frozen=True)
class SampledModel:
    """A model that the samples contain: role, label, digest, number of samples."""

    role: str
    label: str
    digest: str
    samples: int


def sampled_models(labels: Iterable[Mapping[str, Any]], names: Mapping[ModelKey, str]) -> list[SampledModel]:
    """Every model with its role, in words, and its digest."""
    models = [SampledModel(_role(row, names), row["label"], row["digest"], row["samples"]) for row in labels]
    return sorted(models, key=lambda model: (model.role, model.label, model.digest))


def versions(tasks: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Versions of the software; more than one if the samples were made with several."""
    by_name = [(name, sorted({row[name] for row in tasks if row[name]})) for name in SOFTWARE]
    return [(name, ", ".join(values) or "not recorded") for name, values in by_name]


def seeds(tasks: Sequence[Mapping[str, Any]]) -> str:
    """The seeds by which the prompts were sampled, for the page."""
    return ", ".join(str(seed) for seed in sorted({row["seed"] for row in tasks} - {None}))


def _role(row: Mapping[str, Any], names: Mapping[ModelKey, str]) -> str:
    if row["role"] in ROLES:
        return ROLES[row["role"]]
    model = model_key(row)
    what = f"{names.get(model, '')}, {graft_label(model)}"
    return f"{what}, from {row['donor_name'] or 'a donor'}" if model.role == "graft" else what
