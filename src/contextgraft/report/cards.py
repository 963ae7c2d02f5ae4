"""Model cards in the hub's format: one for each graft and adapter, with its scores in the metadata."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from contextgraft._version import __version__
from contextgraft.errors import InputError
from contextgraft.formats.adapter_record import AdapterRecord
from contextgraft.formats.graft_record import GraftRecord
from contextgraft.formats.model_card import escape, front_matter, inline_code, licence_of, repository_or_name
from contextgraft.report.charts.svg import slug
from contextgraft.report.data.labels import described
from contextgraft.report.statistics.cells import Cell, ModelKey, cell, needles, skills
from contextgraft.report.statistics.study_table import StudyTable, TargetResult
from contextgraft.report.statistics.weights import WeightRecords, survival
from contextgraft.report.tables import wording
from contextgraft.rope import settings

FOLDER = "cards"


@dataclass(frozen=True)
class CardScores:
    """One fine-tune's scores for a card, with grafts of one donor.

    `rows` are label, needles and skill of alone, theta only and the graft, which is the last.
    """

    title: str
    condition: str
    length: int
    rows: tuple[tuple[str, Cell, Cell], ...]


class _Markdown(str):
    """Text that is Markdown already; every other field of a card is escaped."""

    __slots__ = ()


def _plain(value: object) -> _Markdown:
    return _Markdown(escape(value))


def _code(value: object) -> _Markdown:
    return _Markdown(inline_code(value))


def files(study: StudyTable, weights: WeightRecords) -> dict[str, str]:
    """File name and text of the card of every graft and adapter; theta only has no card."""
    texts = [(graft_name(graft), graft_card(study, graft)) for graft in weights.grafts if graft.scale]
    texts += [(adapter_name(adapter), adapter_card(study, adapter)) for adapter in weights.adapters]
    cards: dict[str, str] = {}
    for name, text in texts:
        number = sum(other == name or other.startswith(f"{name}-no") for other in cards)
        cards[f"{name}-no{number + 1}" if number else name] = text
    return {f"{FOLDER}/{name}.md": text for name, text in cards.items()}


def graft_name(graft: GraftRecord) -> str:
    """File name of a graft's card, such as `style-r8-donor-s1`."""
    scale = "" if graft.scale == 1 else f"x{graft.scale:g}"
    rank = "" if graft.rank is None else f"r{graft.rank}"
    parts = [graft.target.get("name"), rank + scale, graft.donor.get("name")]
    return slug("-".join(str(part) for part in parts if part))


def adapter_name(adapter: AdapterRecord) -> str:
    """File name of an adapter's card, such as `adapter-r8-donor-s1`."""
    return slug(f"adapter-r{adapter.rank}-{adapter.donor.get('name', 'donor')}")


def graft_card(study: StudyTable, graft: GraftRecord) -> str:
    """The model card of one graft in Markdown, with its scores in the metadata."""
    digest, donor = str(graft.target.get("digest")), graft.donor.get("digest")
    scores = [
        _scores(study, target, ModelKey("graft", digest, graft.rank or 0, graft.scale), donor)
        for target in study.targets
        if target.digest == digest
    ]
    name = f"{graft.target.get('name', 'model')}, long context of {graft.donor.get('name', 'a donor')}"
    return _text(
        "graft",
        _front(graft.target, "merge", "transformers", name, scores),
        name=name,
        graft=graft,
        scores=scores,
        survived=survival(graft)[:1],
        longest=_positions(graft.rope.get("after")),
    )


def adapter_card(study: StudyTable, adapter: AdapterRecord) -> str:
    """The card of one adapter, with the grafts made of it."""
    donor = adapter.donor.get("digest")
    scores = [
        _scores(study, target, row.model, donor)
        for target in study.targets
        for row in target.grafts
        if row.model.rank == adapter.rank
    ]
    name = f"Long context of {adapter.donor.get('name', 'a donor')}, rank {adapter.rank}"
    return _text(
        "adapter",
        _front(adapter.base, "adapter", "peft", name, scores),
        name=name,
        adapter=adapter,
        scores=scores,
        longest=_positions(adapter.rope.get("donor")),
    )


def _scores(study: StudyTable, target: TargetResult, graft: ModelKey, donor: str | None) -> CardScores:
    """The scores of one graft and of the controls of its fine-tune, without those of other donors' grafts."""
    groups = [group for group in study.groups if group.donor in (None, donor)]
    models = {"alone": target.alone.model, "theta only": target.theta.model, "graft": graft}
    rows = tuple(
        (
            label,
            cell(needles(groups, model, target.condition, study.longest) if target.condition else ()),
            cell(skills(groups, model)),
        )
        for label, model in models.items()
    )
    return CardScores(target.name, described(target.condition), study.longest, rows)


def _front(
    parent: Mapping[str, Any], relation: str, library: str, name: str, scores: Sequence[CardScores]
) -> str:
    """The metadata of a card: the parent's repository and licence, and the evaluation results, if any."""
    results = [result for score in scores for result in _evaluation_results(score)]
    index = {"model-index": [{"name": name, "results": results}]} if results else {}
    repository = repository_or_name({"name": "unknown", **parent})
    return front_matter(repository, relation, library, **licence_of(parent.get("license") or {}), **index)


def _evaluation_results(scores: CardScores) -> list[dict[str, Any]]:
    """The scores of the graft as the hub's evaluation results; each names its fine-tune."""
    _, needle, skill = scores.rows[-1]
    measured = (
        ("needle in a haystack", f"{scores.title}: {scores.condition}, {scores.length} tokens", needle),
        ("own skill", f"{scores.title}: own skill", skill),
    )
    return [
        {
            "task": {"type": "text-generation", "name": task},
            "dataset": {"type": slug(data), "name": data},
            "metrics": [
                {
                    "type": "accuracy",
                    "value": round(result.proportion.score, 6),
                    "name": f"share right, n={result.proportion.n}",
                    "args": {
                        "n": result.proportion.n,
                        "low": round(result.proportion.interval[0], 6),
                        "high": round(result.proportion.interval[1], 6),
                    },
                }
            ],
        }
        for task, data, result in measured
        if result.proportion.score is not None
    ]


def _positions(rope: Any) -> int | None:
    """The context length that a recorded RoPE setting gives; None if there is none."""
    try:
        return settings.from_json(rope).context
    except (InputError, TypeError):
        return None


def _text(kind: str, front: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("contextgraft.report"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, _Markdown) else escape(value),
    )
    environment.filters.update(
        measured=wording.measured,
        plain=_plain,
        code=_code,
        thousands=wording.thousands,
        percent=wording.percent,
        rounded=wording.rounded,
    )
    body = environment.get_template(f"{kind}.md.j2").render(**values, version=__version__)
    return f"{front}\n{body}"
