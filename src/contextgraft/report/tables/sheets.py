"""Tables of the page beside the main one, as texts: scores, perplexities, divergences, survival: pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.report.charts.perplexity import figure
from contextgraft.report.charts.theme import heat
from contextgraft.report.data.graft_records import Graft, survival
from contextgraft.report.data.links import link
from contextgraft.report.statistics.cells import Who
from contextgraft.report.statistics.means import Divergence, Measures
from contextgraft.report.statistics.study_table import Study
from contextgraft.report.tables.score_tables import Effective, Entry, Grid, families
from contextgraft.report.tables.wording import DASH, between, percent, thousands, trimmed


@dataclass(frozen=True)
class Slot:
    """One cell: a figure with what stands small beside it, or the reason why there is none."""

    value: str = ""
    fine: str = ""
    gap: str = ""
    link: str = ""
    fill: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table: column heads, and blocks of rows under an optional heading each."""

    title: str
    columns: tuple[str, ...]
    blocks: tuple[tuple[str, tuple[tuple[str, tuple[Slot, ...]], ...]], ...]
    note: str = ""


def of_grid(grid: Grid) -> Sheet:
    """Scores on the conventional scale."""
    blocks = tuple(
        (block.title, tuple((label, tuple(map(_score, entries))) for label, entries in block.rows))
        for block in grid.blocks
    )
    return Sheet(grid.title, grid.columns, blocks)


def perplexity(study: Study, measures: Measures) -> list[Sheet]:
    """Perplexity over whole windows: a column for each text and length."""
    sheets = []
    for family in families(study):
        windows = measures.windows(who for _, who in family.rows)
        asked = {item.who for item in measures.stretches} | {item.who for item in measures.gaps}
        rows = tuple(
            (
                label,
                tuple(
                    _stretch(measures, (who, task, length), (family.tune, label)) for task, length in windows
                ),
            )
            for label, who in family.rows
            if who in asked
        )
        if windows:
            columns = tuple(f"{task}, {thousands(length)} tokens" for task, length in windows)
            sheets.append(Sheet(family.tune, columns, (("", rows),)))
    return sheets


def divergences(study: Study, measures: Measures) -> list[Sheet]:
    """Mean KL and agreement with the untouched fine-tune, a block for each text."""
    sheets = []
    for family in families(study):
        whos = {who for _, who in family.rows}
        own = [item for item in measures.divergences if item.who in whos]
        missed = [item for item in measures.gaps if item.suite == "divergence" and item.who in whos]
        texts = {item.task for item in own} | {item.task for item in missed}
        asked = {item.who for item in own} | {item.who for item in missed}
        blocks = tuple(
            (
                ", ".join([task, *_lengths([item for item in own if item.task == task])]),
                tuple(
                    (label, _diverged(own, measures, (who, task), (family.tune, label)))
                    for label, who in family.rows
                    if who in asked
                ),
            )
            for task in sorted(texts)
        )
        if blocks:
            columns = ("mean KL, nats", "same first token")
            sheets.append(Sheet(family.tune, columns, blocks))
    return sheets


def effective(told: Sequence[tuple[str, Sequence[Effective]]]) -> list[Sheet]:
    """RULER's mean by length, and the effective length or what it lacks."""
    sheets = []
    for title, rows in told:
        lengths = sorted({length for row in rows for length, _, _ in row.means})
        lines = tuple((row.label, (*_means(row, lengths), _effective(row))) for row in rows)
        columns = (*(f"mean at {thousands(length)}" for length in lengths), "effective length")
        sheets.append(Sheet(title, columns, (("", lines),), _missing(rows)))
    return sheets


def survived(grafts: Sequence[Graft]) -> Sheet | None:
    """How much of each graft's delta is there after rounding, by kind of module."""
    shown = [(graft, {item.kind: item for item in survival(graft)}) for graft in grafts if graft.scale]
    kinds = list(dict.fromkeys(kind for _, parts in shown for kind in parts))
    if not kinds:
        return None
    blocks: dict[str, list[tuple[str, tuple[Slot, ...]]]] = {}
    for graft, parts in shown:
        slots = tuple(
            Slot(
                value=_kept(parts[kind].kept),
                fine=f"lowest {_kept(parts[kind].lowest)}, {parts[kind].tensors} tensors",
            )
            if kind in parts
            else Slot(gap="no delta")
            for kind in kinds
        )
        rank = graft.name if graft.rank is None else f"r{graft.rank}"
        scale = "" if graft.scale == 1 else f" × {graft.scale:g}"
        donor = f", {graft.donor['name']}" if graft.donor.get("name") else ""
        title = str(graft.target.get("name", DASH))
        blocks.setdefault(title, []).append((f"{rank}{scale}{donor}", slots))
    return Sheet(
        "Survival of the delta",
        tuple(kinds),
        tuple((title, tuple(rows)) for title, rows in blocks.items()),
    )


def _score(entry: Entry) -> Slot:
    tally = entry.cell.tally
    if tally.score is None:
        return Slot(gap=tally.gap, link=entry.link if tally.asked else "")
    unscored = f", not scored: {tally.gap}" if tally.unscored else ""
    fine = f"{between(tally.interval)} n={thousands(tally.n)}{unscored}"
    return Slot(percent(tally.score), fine, link=entry.link, fill=heat(tally.score))


def _stretch(measures: Measures, asked: tuple[Who, str, int], place: tuple[str, str]) -> Slot:
    who, task, length = asked
    found = measures.whole(who, task, length)
    if found is None:
        return Slot(gap=measures.why(who, "perplexity", task, length))
    address = link(tune=place[0], row=place[1], suite="perplexity", task=task, length=length)
    pair = found.interval
    interval = f"[{figure(pair[0])}, {figure(pair[1])}] " if pair else ""
    return Slot(figure(found.perplexity), f"{interval}n={found.nats.n}", link=address)


def _diverged(
    own: Sequence[Divergence], measures: Measures, asked: tuple[Who, str], place: tuple[str, str]
) -> tuple[Slot, ...]:
    who, task = asked
    found = next((item for item in own if (item.who, item.task) == asked), None)
    if found is None:
        return (Slot(gap=measures.why(who, "divergence", task)),) * 2
    address = link(tune=place[0], row=place[1], suite="divergence", task=task)
    kl, same = found.kl_interval, found.agreement_interval
    size, positions = f"n={thousands(found.kl.n)}", f"{thousands(found.tokens)} positions"
    return (
        Slot(f"{found.kl.mean:.3g}", f"[{kl[0]:.3g}, {kl[1]:.3g}] {size}" if kl else size, link=address),
        Slot(percent(found.agreement.mean), f"{between(same)} {positions}" if same else positions),
    )


def _lengths(own: Sequence[Divergence]) -> list[str]:
    """`128 tokens`, `12–40 tokens`."""
    if not own:
        return []
    low, high = min(item.lengths[0] for item in own), max(item.lengths[1] for item in own)
    return [f"{thousands(low)} tokens" if low == high else f"{thousands(low)}{DASH}{thousands(high)} tokens"]


def _means(row: Effective, lengths: Sequence[int]) -> list[Slot]:
    found = {length: (mean, tasks) for length, mean, tasks in row.means}
    return [
        Slot(trimmed(found[length][0]), f"of {found[length][1]} tasks", fill=heat(found[length][0] / 100))
        if length in found
        else Slot(gap="not asked")
        for length in lengths
    ]


def _effective(row: Effective) -> Slot:
    if row.length.length is None:
        ran = len(RULER_TASKS) - len(row.length.missing)
        return Slot(gap=f"not told: {ran} of {len(RULER_TASKS)} tasks ran at every length")
    return Slot(thousands(row.length.length) if row.length.length else "none asked is good enough")


def _missing(rows: Sequence[Effective]) -> str:
    """Which tasks the effective length lacks."""
    names = dict.fromkeys(name for row in rows for name in row.length.missing)
    return f"Did not run at every length: {', '.join(names)}." if names else ""


def _kept(share: float) -> str:
    """A share near 1 with the figures that tell it from 1."""
    return f"{100 * share:.2f} %"
