"""Rows as the report can show them: one invalid row becomes one sample without a score, never an error.

Samples may come from others: texts without control characters and not endless, numbers that are numbers.
"""

from contextgraft.formats.sample_files import COLUMNS, NUMBER, TEXT, ColumnKind

LONGEST_NAME = 80  # characters of a label, a task or another name; a chart has room for no more
PROSE = {"answer", "output", "recipe"}  # texts that keep their line breaks and their length
NEEDED = {"model", "model_digest", "suite", "task", "status"}
LARGEST = 1e15  # beyond it a number is not a measurement
REPLACEMENT = "\ufffd"
_FORMATTING = r"\x7f-\x9f\x{202a}-\x{202e}\x{2066}-\x{2069}\x{fffe}\x{ffff}"  # what turns or ends a line


def select_clean(file: str, path: str) -> str:
    """SQL that selects all columns of a file, cleaned.

    `file` and `path` are placeholders for its name and path.
    A row without a name that the report needs, or with a number that is not finite, has status failed, and a
    reason that names the column.
    """
    given = ", ".join(f'CAST("{name}" AS {kind.sql}) AS "{name}"' for name, kind in COLUMNS.items())
    cleaned = ", ".join(f'{_clean(name, kind)} AS "{name}"' for name, kind in COLUMNS.items())
    return (
        f"SELECT {cleaned}, file FROM (SELECT *, concat_ws(', ', {', '.join(_defects())}) AS defect "
        f"FROM (SELECT {given}, {file} AS file FROM read_parquet({path})))"
    )


def _defects() -> list[str]:
    """SQL expressions, each of which is what is wrong with a column of a row, or null."""
    missing = [f"""CASE WHEN "{name}" IS NULL THEN 'no {name}' END""" for name in sorted(NEEDED)]
    numbers = [name for name, kind in COLUMNS.items() if kind is NUMBER]
    return missing + [
        f"""CASE WHEN NOT {_is_number(name)} THEN '{name} ' || "{name}" END""" for name in numbers
    ]


def _is_number(name: str) -> str:
    return f'(isfinite("{name}") AND abs("{name}") < {LARGEST})'


def _clean(name: str, kind: ColumnKind) -> str:
    """SQL of one column; what depends on the defects of the row comes first."""
    value = _value(name, kind)
    changed = {"status": "'failed'", "score": "NULL", "reason": "'invalid row: ' || defect"}
    if name not in changed:
        return value
    invalid = """defect <> '' AND "suite" IS DISTINCT FROM 'refused'"""
    return f"CASE WHEN {invalid} THEN {changed[name]} ELSE {value} END"


def _value(name: str, kind: ColumnKind) -> str:
    if kind is NUMBER:
        return f'CASE WHEN {_is_number(name)} THEN "{name}" END'
    if kind is not TEXT:
        return f'"{name}"'
    if name in PROSE:
        return _replaced(rf"[\x00-\x08\x0b\x0c\x0e-\x1f{_FORMATTING}]", f'"{name}"')
    text = _replaced(rf"[\x00-\x1f{_FORMATTING}]", f'"{name}"')
    kept = LONGEST_NAME - 9
    digest = f'left(md5("{name}"), 8)'
    cut = f"left({text}, {kept}) || '…' || {digest}"
    short = f"CASE WHEN length({text}) > {LONGEST_NAME} THEN {cut} ELSE {text} END"
    if name == "reason":
        return text
    return f"coalesce({short}, 'no {name}')" if name in NEEDED else short


def _replaced(pattern: str, text: str) -> str:
    return f"regexp_replace({text}, '{pattern}', '{REPLACEMENT}', 'g')"
