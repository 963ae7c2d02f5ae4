"""The matrix as a picture: fine-tunes down, ranks across, context gained and skill kept in each square."""

from collections.abc import Sequence
from typing import Any

from contextgraft.report.charts.theme import GREY, PALETTE, heat, square_text
from contextgraft.report.statistics.proportion import NOT_EVALUATED
from contextgraft.report.statistics.rank_matrix import MARKS, THETA, MatrixCell, MatrixLine, matrix_ranks
from contextgraft.report.statistics.verdict import VerdictOutcome
from contextgraft.report.tables.wording import DASH, signed

STEP_X = 84
STEP_Y = 58
OUTCOMES = {  # place on the scale of scores, and meaning
    VerdictOutcome.BOTH: (1.0, "context works, skill kept"),
    VerdictOutcome.SKILL_UNKNOWN: (0.75, "context works, skill not measured"),
    VerdictOutcome.CONTEXT_ONLY: (0.5, "context works, skill lost"),
    VerdictOutcome.NEITHER: (0.0, "context fails"),
}
BANDS = {"paddingInner": 0.07, "paddingOuter": 0.02}


def spec(lines: Sequence[MatrixLine], title: str | None = None) -> dict[str, Any]:
    """Colour is the outcome of the rank's graft; a frame marks the Pareto front."""
    ranks = matrix_ranks(lines)
    titles = [heading(rank) for rank in ranks]
    values = [_values(line.title, rank, line.cells.get(rank)) for line in lines for rank in ranks]
    chart = {
        "width": {"step": STEP_X},
        "height": {"step": STEP_Y},
        "data": {"values": values},
        "encoding": {
            "x": {
                "field": "rank",
                "type": "ordinal",
                "sort": titles,
                "scale": BANDS,
                "axis": {"orient": "top", "labelAngle": 0, "title": None, "ticks": False, "domain": False},
            },
            "y": {
                "field": "tune",
                "type": "ordinal",
                "sort": [line.title for line in lines],
                "scale": BANDS,
                "axis": {"title": None, "ticks": False, "domain": False, "labelLimit": 300},
            },
        },
        "layer": [
            {
                "mark": {"type": "rect", "cornerRadius": 4, "strokeWidth": 2.5},
                "encoding": {
                    "color": {"field": "fill", "type": "nominal", "scale": None},
                    "stroke": {"field": "frame", "type": "nominal", "scale": None},
                    "description": {"field": "text", "type": "nominal"},
                },
            },
            square_text("gained", dx=0, dy=-10, size=14, weight=600),
            square_text("kept", dx=0, dy=9, size=11, weight=400),
            square_text("mark", dx=32, dy=-10, size=12, weight=400),
        ],
    }
    return chart | {"title": title} if title else chart


def outcome_colour(outcome: VerdictOutcome) -> str:
    """Colour of a square: whether the long context works and the skill is kept."""
    return heat(OUTCOMES[outcome][0]) if outcome in OUTCOMES else GREY


def outcome_legend() -> list[tuple[str, str]]:
    """Colour and meaning of each outcome."""
    return [(outcome_colour(outcome), text) for outcome, (_, text) in OUTCOMES.items()]


def heading(rank: int) -> str:
    """Head of a column: `theta only`, `r8`."""
    return "theta only" if rank == THETA else f"r{rank}"


def summary(lines: Sequence[MatrixLine]) -> str:
    """The matrix as text, for screen readers."""
    return ". ".join(
        f"{line.title}: " + ", ".join(_short(rank, cell) for rank, cell in sorted(line.cells.items()))
        for line in lines
    )


def _short(rank: int, cell: MatrixCell) -> str:
    gained = f"{signed(cell.gained.points)} points" if cell.gained else cell.missing
    return f"{heading(rank)} {gained}{cell.mark and f' ({MARKS[cell.mark]})'}"


def _values(title: str, rank: int, cell: MatrixCell | None) -> dict[str, Any]:
    common = {"tune": title, "rank": heading(rank)}
    if cell is None or cell.gained is None:
        missing = cell.missing if cell else NOT_EVALUATED
        status = missing.split(":")[0]
        return common | {
            "fill": GREY,
            "frame": GREY,
            "gained": DASH,
            "kept": status,
            "text": f"{title}, {heading(rank)}: {missing}",
        }
    fill = outcome_colour(cell.outcome)
    return common | {
        "fill": fill,
        "frame": PALETTE["ink"] if cell.on_front else fill,
        "gained": signed(cell.gained.points),
        "mark": cell.mark,
        "kept": f"skill {signed(cell.kept.points)}" if cell.kept else "skill ?",
        "text": f"{title}, {heading(rank)}: {cell.description}",
    }
