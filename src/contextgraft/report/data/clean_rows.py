"""Rows as the report can show them: one invalid row becomes one sample without a score, never an error.

Samples may come from others: texts without control characters and not endless, numbers that are numbers.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from contextgraft.formats.sample_files import COLUMNS, INTEGER, NUMBER, TEXT, ColumnKind

LONGEST_NAME = 80  # characters of a label, a task or another name; a chart has room for no more
PROSE = {"answer", "output", "recipe"}  # texts that keep their line breaks
LONGEST_PROSE = 1_000_000  # characters; a page shows some hundred of a text
NEEDED = {"model", "model_digest", "suite", "task", "status"}
SHARES = ("needle", "ruler", "skill", "long_skill", "repetition")  # suites whose scores are from 0 to 1
NATS = ("perplexity", "long_perplexity", "divergence")  # suites whose scores are nats over some tokens
MOST_NATS = 500  # per token; a vocabulary of 10^200 tokens would be needed to be as wrong by chance
LARGEST = 1e15  # beyond it a number is not a measurement
STATUSES = ("ok", "truncated", "skipped", "failed")
ANY_INTEGER = {"seed"}  # the others count something
PATH = "path of the file"  # a column that no table of samples has
REPLACEMENT = "\ufffd"
_FORMATTING = r"\x7f-\x9f\x{202a}-\x{202e}\x{2066}-\x{2069}\x{fffe}\x{ffff}"  # what turns or ends a line
_INVISIBLE = r"\x{00ad}\x{061c}\x{200b}-\x{200f}\x{2060}-\x{2064}\x{feff}\x{e0000}-\x{e007f}"
CONTROL = rf"[\x00-\x1f{_FORMATTING}{_INVISIBLE}]"  # in names: two that look alike would be taken for one


def select_clean(file_names: str, paths: str, names: Mapping[str, str | None] = MappingProxyType({})) -> str:
    """SQL that selects all columns of some files, cleaned; `names` are those of their columns, None for null.

    `file_names` is a map from path to name, `paths` a list: expressions or placeholders. The columns `file`
    and `table_row` are the name of a row's file and its number in it, from 0.
    A row without a name that the report needs, with a number that is not a measurement, or with a score that
    does not fit its status or suite, has status failed, and a reason that names the column.
    """
    written = {name: names.get(name, name) for name in COLUMNS}
    columns = {name: "NULL" if source is None else f'"{source}"' for name, source in written.items()}
    given = ", ".join(
        f'TRY_CAST({columns[name]} AS {kind.sql}) AS "{name}"' for name, kind in COLUMNS.items()
    )
    integers = [name for name, kind in COLUMNS.items() if kind is INTEGER]
    unread = ", ".join(
        f"""CASE WHEN "{name}" IS NOT NULL AND TRY_CAST("{name}" AS BIGINT) IS NULL THEN '{name}' END"""
        for name in integers
    )
    cleaned = ", ".join(f'{_clean(name, kind)} AS "{name}"' for name, kind in COLUMNS.items())
    return (
        f"SELECT {cleaned}, file, table_row "
        f"FROM (SELECT *, concat_ws(', ', unread, {', '.join(_defects())}) AS defect "
        f"FROM (SELECT {given}, nullif(concat_ws(', ', {unread}), '') AS unread, "
        f'{file_names}["{PATH}"] AS file, file_row_number AS table_row '
        # a folder such as `rank=8` in a path is not a column
        f"FROM read_parquet({paths}, filename='{PATH}', hive_partitioning=false)))"
    )


def _defects() -> Iterator[str]:
    """SQL expressions, each of which is what is wrong with a column of a row, or null."""
    for name, kind in COLUMNS.items():
        if name in NEEDED:
            yield f"""CASE WHEN coalesce("{name}", '') = '' THEN 'no {name}' END"""
        if kind is not TEXT:
            yield f"""CASE WHEN NOT {_is_usable(name, kind)} THEN '{name} ' || "{name}" END"""
    yield f"""CASE WHEN "status" NOT IN {STATUSES} THEN 'status ' || {_shown("status")} END"""
    yield f"CASE WHEN {_is_usable('score', NUMBER)} AND NOT ({_in_range()}) THEN 'score ' || score END"
    yield "CASE WHEN status = 'ok' AND score IS NULL THEN 'no score' END"
    scored = f"status IN {STATUSES[1:]} AND score IS NOT NULL"
    yield f"CASE WHEN {scored} THEN 'status ' || status || ' with a score' END"
    weighed = f"suite IN {NATS} AND status = 'ok'"
    yield f"CASE WHEN {weighed} AND coalesce(tokens, 0) < 1 THEN 'tokens ' || coalesce(tokens, 0) END"
    agrees = "coalesce(agreement BETWEEN 0 AND 1, false)"
    yield f"CASE WHEN suite = 'divergence' AND status = 'ok' AND NOT {agrees} THEN 'agreement' END"


def _in_range() -> str:
    """SQL: shares are from 0 to 1, nats not below 0 but for rounding where a model is its own reference."""
    return (
        f"CASE WHEN suite IN {SHARES} THEN score BETWEEN 0 AND 1 "
        f"WHEN suite IN {NATS} THEN score BETWEEN -1e-3 AND {MOST_NATS} ELSE true END"
    )


def _is_usable(name: str, kind: ColumnKind) -> str:
    if kind is NUMBER:
        return f'(isfinite("{name}") AND abs("{name}") < {LARGEST})'
    return "true" if name in ANY_INTEGER else f'("{name}" BETWEEN 0 AND {LARGEST})'


def _shown(name: str) -> str:
    """SQL of a text that is short and has no control characters."""
    text = _replaced(CONTROL, f'"{name}"')
    return f"left({text}, {LONGEST_NAME})"


def _clean(name: str, kind: ColumnKind) -> str:
    """SQL of one column; what depends on the defects of the row comes first."""
    value = _value(name, kind)
    changed = {"status": "'failed'", "score": "NULL", "reason": "'invalid row: ' || defect"}
    if name not in changed:
        return value
    invalid = """defect <> '' AND "suite" IS DISTINCT FROM 'refused'"""
    return f"CASE WHEN {invalid} THEN {changed[name]} ELSE {value} END"


def _value(name: str, kind: ColumnKind) -> str:
    if kind is not TEXT:
        return f'CASE WHEN {_is_usable(name, kind)} THEN "{name}" END'
    if name in PROSE:
        return _replaced(rf"[\x00-\x08\x0b\x0c\x0e-\x1f{_FORMATTING}]", f'left("{name}", {LONGEST_PROSE})')
    text = _replaced(CONTROL, f'"{name}"')
    kept = LONGEST_NAME - 9
    digest = f'left(md5("{name}"), 8)'
    cut = f"left({text}, {kept}) || '…' || {digest}"
    short = f"CASE WHEN length({text}) > {LONGEST_NAME} THEN {cut} ELSE {text} END"
    if name == "reason":
        return f"left({text}, {LONGEST_PROSE})"
    return f"coalesce(nullif({short}, ''), 'no {name}')" if name in NEEDED else short


def _replaced(pattern: str, text: str) -> str:
    return f"regexp_replace({text}, '{pattern}', '{REPLACEMENT}', 'g')"
