"""Names of models, from labels, manifests and digests: pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from contextgraft.report.statistics.cells import Who, who

SHORT = 12


def short(digest: str) -> str:
    """The first characters of a digest: enough to tell models apart."""
    return digest.removeprefix("sha256:")[:SHORT]


def target_names(labels: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name of each fine-tune by its digest: its own row's label, else what the grafts' manifests call it."""
    own: dict[str, str] = {}
    told: dict[str, str] = {}
    for row in labels:
        if row["role"] == "alone":
            own[row["target"]] = row["label"]
        elif row["target_name"]:
            told.setdefault(row["target"], row["target_name"])
    digests = {row["target"] for row in labels if row["role"] in {"alone", "theta", "graft"}}
    return {digest: own.get(digest) or told.get(digest) or short(digest) for digest in sorted(digests)}


def donor_names(labels: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Name of each donor by its digest: its own row's label, else what the grafts' manifests call it."""
    names: dict[str, str] = {}
    for row in labels:
        if row["donor"] and row["donor_name"]:
            names.setdefault(row["donor"], row["donor_name"])
    return names | {row["digest"]: row["label"] for row in labels if row["role"] == "donor"}


def told_role(role: str, label: str) -> str:
    """A label that tells its role: `base SmolLM2`, but `donor-s1` as it is."""
    return label if role in label.lower() else f"{role} {label}"


def row_names(labels: Iterable[Mapping[str, Any]]) -> dict[Who, str]:
    """The name of every row of the table; several donors share one."""
    rows = list(labels)
    targets = target_names(rows)
    donors = sorted({row["digest"] for row in rows if row["role"] == "donor"})
    names: dict[Who, str] = {}
    for row in rows:
        key = who(row)
        if row["role"] == "donor":
            names[key] = told_role("donor", row["label"]) if len(donors) == 1 else f"donors ({len(donors)})"
        elif row["role"] == "base":
            names[key] = told_role("base", row["label"])
        else:
            names[key] = targets.get(key.name, row["label"])
    return names
