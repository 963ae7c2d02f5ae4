"""Model cards in the hub's format: one for each graft and adapter, with its figures in the metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from contextgraft._version import __version__
from contextgraft.report.charts.figure import slug
from contextgraft.report.data.adapter_records import Adapter
from contextgraft.report.data.graft_records import Graft, survival
from contextgraft.report.data.titles import described
from contextgraft.report.statistics.cells import Cell, Who, cell, needles, skills
from contextgraft.report.statistics.study_table import FineTune, Study
from contextgraft.report.tables import wording

FOLDER = "cards"
TAGS = ["contextgraft", "long-context"]
LOCAL = ("path:", "demo:", "/", ".")


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
    front = _front(name, graft.target, "transformers", shown)
    return _text(
        "graft",
        front | {"base_model_relation": "merge"},
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
    front = _front(name, adapter.base, "peft", shown)
    return _text(
        "adapter",
        front | {"base_model_relation": "adapter"},
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


def _front(name: str, base: Mapping[str, Any], library: str, shown: Sequence[Evidence]) -> dict[str, Any]:
    """The metadata: what the hub reads of a card."""
    results = [result for item in shown for result in _results(item)]
    index = [{"name": name, "results": results}] if results else []
    return {
        "base_model": _repository(base),
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": TAGS,
        **({"model-index": index} if index else {}),
    }


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


def _repository(identity: Mapping[str, Any]) -> str:
    """Where the model can be had: its repository on the hub, else its name."""
    source = str(identity.get("source") or "").removeprefix("hf:")
    known = "/" in source and not source.startswith(LOCAL)
    return source if known else str(identity.get("name", "unknown"))


def _positions(rope: Any) -> int | None:
    value = rope.get("max_positions") if isinstance(rope, Mapping) else None
    return value if isinstance(value, int) else None


def _text(kind: str, front: Mapping[str, Any], **values: Any) -> str:
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
        plain=plain,
        thousands=wording.thousands,
        percent=wording.percent,
        figure=wording.figure,
    )
    body = environment.get_template(f"{kind}.md.j2").render(**values, version=__version__)
    head = yaml.safe_dump(dict(front), sort_keys=True, allow_unicode=True, width=110)
    return f"---\n{head}---\n\n{body}"


def plain(value: object) -> str:
    """A text that Markdown shows as it is, on one line: no markup, table cell or link in it."""
    text = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>()#+!|~" else letter for letter in text)
