"""Names, titles and groups of models, by which the page and the samples refer to them: pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextgraft.report.statistics.cells import (
    SINGLE,
    ModelKey,
    NeedleCondition,
    belongs_to_fine_tune,
    model_key,
)
from contextgraft.report.statistics.study_table import ModelRow, StudyTable, TargetResult

SHORT_DIGEST = 12
REFERENCES = "Base and donor"
OTHERS = "Other models"


def short(digest: str) -> str:
    """The first characters of a digest: enough to distinguish models."""
    return digest.removeprefix("sha256:")[:SHORT_DIGEST]


def model_names(labels: Iterable[Mapping[str, Any]]) -> dict[ModelKey, str]:
    """The name of every model, from the rows of sql/labels.sql; several donors share one."""
    rows = list(labels)
    targets = _target_names(rows)
    donors = {row["digest"] for row in rows if row["role"] == "donor"}
    names: dict[ModelKey, str] = {}
    for row in rows:
        model = model_key(row)
        if row["role"] == "donor":
            names[model] = (
                _with_role("donor", row["label"]) if len(donors) == 1 else f"donors ({len(donors)})"
            )
        elif row["role"] == "base":
            names[model] = _with_role("base", row["label"])
        else:
            names[model] = targets.get(model.name, row["label"])
    return names


def donor_names(labels: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Name of each donor by its digest: its own label, else the name in the grafts' manifests."""
    rows = list(labels)
    names: dict[str, str] = {}
    for row in rows:
        if row["donor"] and row["donor_name"]:
            names.setdefault(row["donor"], row["donor_name"])
    return names | {row["digest"]: row["label"] for row in rows if row["role"] == "donor"}


def _target_names(labels: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name of each fine-tune by its digest: its own label, else the name in the grafts' manifests."""
    own: dict[str, str] = {}
    in_manifests: dict[str, str] = {}
    for row in labels:
        if row["role"] == "alone":
            own[row["target"]] = row["label"]
        elif row["target_name"]:
            in_manifests.setdefault(row["target"], row["target_name"])
    digests = {row["target"] for row in labels if belongs_to_fine_tune(row["role"])}
    return {
        digest: own.get(digest) or in_manifests.get(digest) or short(digest) for digest in sorted(digests)
    }


def _with_role(role: str, label: str) -> str:
    """A label that names its role: `base SmolLM2`, but `donor-s1` as it is."""
    return label if role in label.lower() else f"{role} {label}"


def described(condition: NeedleCondition | None) -> str:
    """`needle_style, 3 distractors`, with kind, haystack and chat template if they are not the usual ones."""
    if condition is None:
        return "no needles evaluated"
    count = condition.distractors
    chat = "in chat" if condition.chat else ""
    names = [condition.task, condition.kind.replace("_", " "), condition.haystack, chat]
    shown = [name for name in names if name not in {"", SINGLE}]
    return f"{', '.join(shown)}, {count or 'no'} distractor{'' if count == 1 else 's'}"


def target_titles(study: StudyTable) -> list[tuple[str, TargetResult]]:
    """Every fine-tune with a unique title: its name, with needle condition and digest as far as needed."""
    targets = study.targets
    levels = [
        [target.name, f"{target.name} ({described(target.condition)})", target.digest] for target in targets
    ]
    return list(zip(_distinct(levels), targets, strict=True))


def reference_titles(rows: Sequence[ModelRow]) -> list[tuple[str, ModelRow]]:
    """The same for rows that belong to no fine-tune."""
    levels = [[row.label, f"{row.label} ({described(row.condition)})", row.model.name] for row in rows]
    return list(zip(_distinct(levels), rows, strict=True))


def _distinct(levels: Sequence[Sequence[str]]) -> list[str]:
    """The shortest of each item's titles that no other item shares."""
    names, longer_names = Counter(item[0] for item in levels), Counter(item[1] for item in levels)
    return [
        name if names[name] == 1 else longer if longer_names[longer] == 1 else f"{longer} {short(digest)}"
        for name, longer, digest in levels
    ]


@dataclass(frozen=True)
class ModelFamily:
    """The models of one group, with a label each: base and donors, a fine-tune and its grafts, or others."""

    name: str
    models: tuple[tuple[str, ModelKey], ...]


def families(study: StudyTable) -> list[ModelFamily]:
    """Base and donor, every fine-tune with its grafts, the other models; each model once.

    A fine-tune has its name under any condition, with its digest if others have the same name.
    """
    groups = [ModelFamily(REFERENCES, _once(reference_titles(study.references)))]
    digests: dict[str, set[str]] = {}  # of the fine-tunes of each name
    rows: dict[tuple[str, str], list[ModelRow]] = {}
    for target in study.targets:
        digests.setdefault(target.name, set()).add(target.digest)
        rows.setdefault((target.name, target.digest), []).extend(target.rows)
    for (name, digest), own in rows.items():
        title = name if len(digests[name]) == 1 else f"{name} {short(digest)}"
        groups.append(ModelFamily(title, _once([(row.label, row) for row in own])))
    groups.append(ModelFamily(OTHERS, _once(reference_titles(study.others))))
    return [family for family in groups if family.models]


def family_labels(study: StudyTable) -> dict[ModelKey, tuple[str, str]]:
    """Family and label of every model, by which its samples are found."""
    return {model: (family.name, label) for family in families(study) for label, model in family.models}


def _once(rows: Sequence[tuple[str, ModelRow]]) -> tuple[tuple[str, ModelKey], ...]:
    labels: dict[ModelKey, str] = {}
    for label, row in rows:
        labels.setdefault(row.model, label)
    return tuple((label, model) for model, label in labels.items())
