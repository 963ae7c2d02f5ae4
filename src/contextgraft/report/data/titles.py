"""Titles of rows and fine-tunes that tell them apart where their names do not: pure."""

from collections import Counter
from collections.abc import Sequence

from contextgraft.report.data.names import short
from contextgraft.report.statistics.cells import SINGLE, Condition
from contextgraft.report.statistics.study_table import FineTune, Row, Study


def described(condition: Condition | None) -> str:
    """`needle_style, 3 distractors`, with kind and haystack where they are told."""
    if condition is None:
        return "no needles asked"
    count = condition.distractors
    parts = [condition.task, condition.kind.replace("_", " "), condition.haystack]
    shown = [part for part in parts if part not in {"", SINGLE}]
    return f"{', '.join(shown)}, {count or 'no'} distractor{'' if count == 1 else 's'}"


def tune_titles(study: Study) -> list[tuple[str, FineTune]]:
    """Every fine-tune with a title of its own: name, then what was asked, then digest, as far as needed."""
    tunes = study.fine_tunes
    levels = [[tune.name, f"{tune.name} ({described(tune.condition)})", tune.digest] for tune in tunes]
    return list(zip(_distinct(levels), tunes, strict=True))


def reference_titles(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """The same for rows that stand alone."""
    levels = [[row.label, f"{row.label} ({described(row.condition)})", row.who.name] for row in rows]
    return list(zip(_distinct(levels), rows, strict=True))


def _distinct(levels: Sequence[Sequence[str]]) -> list[str]:
    """The shortest of each item's titles that no other item shares."""
    names, described_names = Counter(item[0] for item in levels), Counter(item[1] for item in levels)
    return [
        name if names[name] == 1 else longer if described_names[longer] == 1 else f"{longer} {short(digest)}"
        for name, longer, digest in levels
    ]
