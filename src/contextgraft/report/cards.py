"""Model cards in the hub's format: one for each graft and adapter, with its figures in the metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from contextgraft._version import __version__
from contextgraft.formats.model_card import escape, front_matter, repository_or_name
from contextgraft.report.charts.figure import slug
from contextgraft.report.data.adapter_records import Adapter
from contextgraft.report.data.graft_records import Graft, survival
from contextgraft.report.data.titles import described
from contextgraft.report.statistics.cells import Cell, Who, cell, needles, skills
from contextgraft.report.statistics.study_table import FineTune, Study
from contextgraft.report.tables import wording

FOLDER = "cards"


@dataclass(frozen=True)
class Evidence:
    """One fine-tune's figures for a card: the model itself and its control rows, from one donor."""

    title: str
    condition: str
    long: int
    rows: tuple[tuple[str, Cell, Cell], ...]
    own: int


def files(study: Study, grafts: Sequence[Graft], adapters: Sequence[Adapter]) -> dict[str, str]:
    """File name and text of the card of every graft and adapter; theta only is no graft."""
    named = [(graft_name(graft), graft_card(study, graft)) for graft in grafts if graft.scale]
    named += [(adapter_name(adapter), adapter_card(study, adapter)) for adapter in adapters]
    cards: dict[str, str] = {}
    for name, text in named:
        number = sum(other == name or other.startswith(f"{name}-no") for other in cards)
        cards[f"{name}-no{number + 1}" if number else name] = text
    return {f"{FOLDER}/{name}.md": text for name, text in cards.items()}


def graft_name(graft: Graft) -> str:
    """`style-r8-donor-s1`."""
    scale = "" if graft.scale == 1 else f"x{graft.scale:g}"
    rank = "" if graft.rank is None else f"r{graft.rank}"
    parts = [graft.target.get("name"), rank + scale, graft.donor.get("name")]
    return slug("-".join(str(part) for part in parts if part))


def adapter_name(adapter: Adapter) -> str:
    """`adapter-r8-donor-s1`."""
    return slug(f"adapter-r{adapter.rank}-{adapter.donor.get('name', 'donor')}")


def graft_card(study: Study, graft: Graft) -> str:
    """The card of one graft."""
    digest, donor = str(graft.target.get("digest")), graft.donor.get("digest")
    shown = [
        _evidence(study, tune, Who("graft", digest, graft.rank or 0, graft.scale), donor)
        for tune in study.fine_tunes
        if tune.digest == digest
    ]
    name = f"{graft.target.get('name', 'model')}, long context of {graft.donor.get('name', 'a donor')}"
    repository = repository_or_name({"name": "unknown", **graft.target})
    return _text(
        "graft",
        front_matter(repository, "merge", "transformers", **_model_index(name, shown)),
        name=name,
        graft=graft,
        evidence=shown,
        survived=survival(graft)[:1],
        longest=_positions(graft.rope.get("after")),
    )


def adapter_card(study: Study, adapter: Adapter) -> str:
    """The card of one adapter, with the grafts made of it."""
    donor = adapter.donor.get("digest")
    shown = [
        _evidence(study, tune, row.who, donor)
        for tune in study.fine_tunes
        for row in tune.grafts
        if row.who.rank == adapter.rank
    ]
    name = f"Long context of {adapter.donor.get('name', 'a donor')}, rank {adapter.rank}"
    repository = repository_or_name({"name": "unknown", **adapter.base})
    return _text(
        "adapter",
        front_matter(repository, "adapter", "peft", **_model_index(name, shown)),
        name=name,
        adapter=adapter,
        evidence=shown,
        longest=_positions(adapter.rope.get("donor")),
    )


def _evidence(study: Study, tune: FineTune, who: Who, donor: str | None) -> Evidence:
    """The figures of one graft beside the controls of its fine-tune; other donors' answers are left out."""
    facts = [item for item in study.facts if item.donor in (None, donor)]
    whos = {"alone": tune.alone.who, "theta only": tune.theta.who, "graft": who}
    rows = tuple(
        (
            label,
            cell(needles(facts, row, tune.condition, study.longest)),
            cell(skills(facts, row)),
        )
        for label, row in whos.items()
    )
    return Evidence(tune.name, described(tune.condition), study.longest, rows, len(rows) - 1)


def _model_index(name: str, shown: Sequence[Evidence]) -> dict[str, Any]:
    """The evaluation results in the metadata of a card; empty if nothing was measured."""
    results = [result for item in shown for result in _results(item)]
    return {"model-index": [{"name": name, "results": results}]} if results else {}


def _results(item: Evidence) -> list[dict[str, Any]]:
    """The figures of the model itself, as the hub's evaluation results; each names its fine-tune."""
    _, needle, skill = item.rows[item.own]
    measured = (
        ("needle in a haystack", f"{item.title}: {item.condition}, {item.long} tokens", needle),
        ("own skill", f"{item.title}: own skill", skill),
    )
    return [
        {
            "task": {"type": "text-generation", "name": task},
            "dataset": {"type": slug(data), "name": data},
            "metrics": [
                {
                    "type": "accuracy",
                    "value": round(found.tally.score, 6),
                    "name": f"share right, n={found.tally.n}",
                    "args": {
                        "n": found.tally.n,
                        "low": round(found.tally.interval[0], 6),
                        "high": round(found.tally.interval[1], 6),
                    },
                }
            ],
        }
        for task, data, found in measured
        if found.tally.score is not None
    ]


def _positions(rope: Any) -> int | None:
    value = rope.get("max_positions") if isinstance(rope, Mapping) else None
    return value if isinstance(value, int) else None


def _text(kind: str, front: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("contextgraft.report"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        measured=wording.measured,
        plain=escape,
        thousands=wording.thousands,
        percent=wording.percent,
        figure=wording.figure,
    )
    body = environment.get_template(f"{kind}.md.j2").render(**values, version=__version__)
    return f"{front}\n{body}"
