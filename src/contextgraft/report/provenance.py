"""Where the figures come from: models, prompts, versions, files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contextgraft.report.adapters import Adapter
from contextgraft.report.facts import Who, who
from contextgraft.report.words import DASH

SOFTWARE = ("contextgraft", "torch", "transformers", "lm_eval")
LONGEST_TEXT = 240


@dataclass(frozen=True)
class Model:
    """One model of the samples."""

    role: str
    label: str
    digest: str
    samples: int


@dataclass(frozen=True)
class Answer:
    """One sample as people read it."""

    suite: str
    place: str
    expected: str
    output: str
    mark: str


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


def donor_names(adapters: Iterable[Adapter]) -> list[str]:
    """Names of the donors the adapters came from."""
    return sorted({str(adapter.donor.get("name", "donor")) for adapter in adapters})


def answers(rows: Iterable[Mapping[str, Any]]) -> dict[Who, list[Answer]]:
    """A few answers of every row of the table, right ones first."""
    found: dict[Who, list[Answer]] = {}
    for row in rows:
        found.setdefault(who(row), []).append(_answer(row))
    return found


def _answer(row: Mapping[str, Any]) -> Answer:
    place = [f"{row['length']:,} tokens"] if row["length"] is not None and row["suite"] == "needle" else []
    place += [f"depth {row['depth']:g} %"] if row["depth"] is not None else []
    place += [f"no. {row['index']}"]
    ok = row["status"] == "ok"
    return Answer(
        suite=row["suite"],
        place=", ".join(place),
        expected=clipped(row["answer"] or ""),
        output=clipped(row["output"] or "") if ok else (row["reason"] or DASH),
        mark=("right" if row["right"] else "wrong") if ok else row["status"],
    )


def clipped(text: str) -> str:
    """A text of bounded length; an ellipsis says that it goes on."""
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


ROLES = {"base": "base", "donor": "donor", "alone": "fine-tune", "other": "other"}


def _role(row: Mapping[str, Any], shown: Mapping[Who, str]) -> str:
    if row["role"] in ROLES:
        return ROLES[row["role"]]
    target = shown.get(who(row), "")
    if row["role"] == "theta":
        return f"{target}, theta only"
    scale = "" if row["scale"] == 1 else f" × {row['scale']:g}"
    return f"{target}, graft r{row['rank']}{scale}, from {row['donor_name'] or 'a donor'}"
