"""Model cards of the grafts and adapters of a study, with their scores."""

from collections.abc import Mapping
from pathlib import Path

from contextgraft.formats.adapter_record import AdapterRecord
from contextgraft.formats.graft_record import GraftRecord
from contextgraft.formats.model_card.cards import adapter_card, graft_card
from contextgraft.formats.model_card.scores import CardScores, CardShare
from contextgraft.formats.model_card.usage import AdapterUsage
from contextgraft.report.charts.svg import slug
from contextgraft.report.data.labels import described
from contextgraft.report.statistics.cells import Cell, ModelKey, NeedleCondition, cell, needles, skills
from contextgraft.report.statistics.study_table import StudyTable, TargetResult
from contextgraft.report.statistics.verdict import has_context
from contextgraft.report.statistics.weights import WeightRecords
from contextgraft.report.tables import wording

FOLDER = "cards"


def files(study: StudyTable, weights: WeightRecords, usages: Mapping[Path, AdapterUsage]) -> dict[str, str]:
    """File name and text of the card of every graft and adapter; theta only has no card.

    `usages` has what the snippets of an adapter contain, by its folder.
    """
    texts = [(graft_name(graft), graft_card_of(study, graft)) for graft in weights.grafts if graft.scale]
    texts += [
        (adapter_name(adapter), adapter_card_of(study, adapter, usages)) for adapter in weights.adapters
    ]
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


def graft_card_of(study: StudyTable, graft: GraftRecord) -> str:
    """The model card of one graft, with its scores."""
    digest, donor = str(graft.target.get("digest")), graft.donor.get("digest")
    scores = [
        _scores(study, target, ModelKey("graft", digest, graft.rank or 0, graft.scale), donor)
        for target in study.targets
        if target.digest == digest
    ]
    return graft_card(graft, scores=scores)


def adapter_card_of(study: StudyTable, adapter: AdapterRecord, usages: Mapping[Path, AdapterUsage]) -> str:
    """The card of one adapter, with the scores of the grafts made of it."""
    donor = adapter.donor.get("digest")
    scores = [
        _scores(study, target, row.model, donor)
        for target in study.targets
        for row in target.grafts
        if row.model.rank == adapter.rank
    ]
    usage = usages.get(adapter.folder) if adapter.folder else None
    return adapter_card(adapter, usage, scores)


def _scores(study: StudyTable, target: TargetResult, graft: ModelKey, donor: str | None) -> CardScores:
    """The scores of one graft and of the controls of its fine-tune, without those of other donors' grafts."""
    groups = [group for group in study.groups if group.donor in (None, donor)]

    def needle(model: ModelKey, length: int) -> Cell:
        return cell(needles(groups, model, target.condition, length) if target.condition else ())

    models = {"alone": target.alone.model, "theta only": target.theta.model, "graft": graft}
    rows = tuple(
        (label, _share(needle(model, study.longest)), _share(cell(skills(groups, model))))
        for label, model in models.items()
    )
    evaluated = _lengths(study, graft, target.condition)
    reached = None
    for length in evaluated:
        if not has_context(needle(graft, length)):
            break
        reached = length
    return CardScores(target.name, described(target.condition), study.longest, rows, reached)


def _lengths(study: StudyTable, model: ModelKey, condition: NeedleCondition | None) -> list[int]:
    """The lengths at which a model's needles were evaluated, shortest first."""
    own = needles(study.groups, model, condition) if condition else []
    return sorted({group.length for group in own if group.length is not None})


def _share(scored: Cell) -> CardShare:
    share = scored.proportion
    if not share.n:
        return CardShare(share.unscored_reason)
    return CardShare(wording.measured(scored), share.n, share.score, share.interval)
