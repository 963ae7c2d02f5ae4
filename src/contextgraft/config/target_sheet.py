"""The sheet of fine-tunes: a tab-separated table with one fine-tune on each line, checked line by line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from contextgraft.config.base import Frozen, Name, validate
from contextgraft.config.mistakes import MistakeCollector
from contextgraft.config.study import KeepGrafts, ModelSource
from contextgraft.config.text_file import beside, not_readable, path_exists, read_text_file, split_lines
from contextgraft.errors import ConfigError, InputError

SHORT_DONOR = "short-donor"  # the model of the control short_donor
RESERVED = ("base", SHORT_DONOR), "donor-"
JSONL = ".jsonl"  # suffix of skill files; every other skill is a task of lm-eval
TASK_FILES = ".yaml", ".yml"
SKILL_FILES = JSONL, *TASK_FILES  # anything else names a task


TASKS_RUN_CODE = "names a task file of lm-evaluation-harness, which runs code (!function, templates)"


def is_task_file(skill: str) -> bool:
    """Whether a skill is a task of lm-evaluation-harness that is read from a file, and so may run code.

    Any other task is a name among those that lm-evaluation-harness comes with.
    """
    path = skill.rpartition(":")[0] or skill  # without the metric
    named = path.lower().endswith(TASK_FILES) or "/" in path or path_exists(path) or path_exists(skill)
    return named and not skill.endswith(JSONL)


def skill_file(skill: str) -> str | None:
    """The file that a skill names, without the metric of a task; None for the name of a task."""
    file = skill if skill.endswith(SKILL_FILES) else skill.rpartition(":")[0]
    return file if file.endswith(SKILL_FILES) else None


class TargetRow(Frozen):
    """One line of the sheet: a fine-tune that receives adapters."""

    name: Annotated[Name, Field(description="name of its folders; unique")]
    source: Annotated[
        ModelSource,
        Field(description="any source of `contextgraft fetch`, or train:RECIPE.yaml (trained from the base)"),
    ]
    revision: str | None = Field(None, description="of a source that has revisions")
    needle: str | None = Field(
        None, description="needle format worded for this fine-tune; default: the study's"
    )
    skill: str | None = Field(
        None,
        description="the skills of the fine-tune, separated by commas: skill files (JSONL), tasks of "
        "lm-evaluation-harness (YAML files or names)",
    )
    keep: KeepGrafts | None = Field(
        None,
        description="which of its grafts are kept: recommended, all (yes) or none (no); default: the study's "
        "keep_grafts",
    )
    notes: str | None = Field(None, description="free text")

    @property
    def skills(self) -> tuple[str, ...]:
        """Skill files and tasks as a tuple."""
        return tuple(part.strip() for part in (self.skill or "").split(",") if part.strip())

    @property
    def skill_files(self) -> tuple[str, ...]:
        """The files of the skills, JSONL or YAML; those that lm-evaluation-harness names have none."""
        return tuple(file for skill in self.skills if (file := skill_file(skill)) is not None)

    @property
    def recipe(self) -> str | None:
        """The training recipe, if the fine-tune is trained by the study."""
        return self.source.removeprefix("train:") if self.source.startswith("train:") else None


QUOTED = re.compile(r'"(?:[^"]|"")*"')
CELL = re.compile(rf"(?:^|(?<=\t))(?:{QUOTED.pattern}(?=\t|$)|[^\t]*)")
OPEN, CLOSED = re.compile(r'"(?:[^"]|"")*'), re.compile(r'(?:[^"]|"")*"(?=\t|$)')
COLUMNS = tuple(TargetRow.model_fields)
REQUIRED = tuple(name for name, field in TargetRow.model_fields.items() if field.is_required())


def cells(line: str) -> list[str]:
    """Cells of one line without surrounding blanks, and without the empty cells at its end.

    A cell in quotes, as spreadsheets write it, may contain tabs, and quotes that are doubled.
    """
    values = [
        cell[1:-1].replace('""', '"').strip() if QUOTED.fullmatch(cell) else cell.strip()
        for cell in CELL.findall(line.rstrip("\r\n"))
    ]
    while values and not values[-1]:
        values.pop()
    return values


def data_lines(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Lines with their numbers from 1, without blank ones and comments (the first character is #)."""
    return [
        (number, line)
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]


def check_line_breaks(lines: Sequence[str], path: Path | str) -> None:
    """Raise ConfigError for a cell in quotes that goes on in a later line, as spreadsheets write it."""
    last_end = next((number for number in range(len(lines), 0, -1) if CLOSED.match(lines[number - 1])), 0)
    for number, line in enumerate(lines[: max(last_end - 1, 0)], 1):
        *_, last = ["", *CELL.findall(line)]
        if OPEN.fullmatch(last) and not QUOTED.fullmatch(last):
            raise ConfigError(
                "a cell contains a line break", path=f"{path}:{number}",
                expected="one line for each fine-tune", received=last[:40],
                remedy="write the cell in one line, or leave the quotation mark at its beginning out",
            )  # fmt: skip


def check_header(header: list[str], where: str) -> None:
    """The first line must list known columns, with all required ones and without repetition."""
    unknown = [name for name in header if name not in COLUMNS]
    missing = [name for name in REQUIRED if name not in header]
    if unknown or missing or len(set(header)) != len(header):
        raise ConfigError(
            "the first line must name the columns",
            path=where,
            expected=" ".join(COLUMNS) + " (tab-separated; name and source at least)",
            received=" ".join(header) or "an empty line",
        )


def parse_line(line: str, header: list[str], where: str) -> TargetRow:
    """One line of the sheet; an empty cell means that the value is not given."""
    values = cells(line)
    if len(values) > len(header):
        raise ConfigError(
            "too many cells", path=where, expected=f"{len(header)} (tab-separated)", received=len(values)
        )
    given = {key: value for key, value in zip(header, values, strict=False) if value}
    row = validate(TargetRow, given, where)
    if row.name in RESERVED[0] or row.name.startswith(RESERVED[1]):
        raise ConfigError(
            f"the name {row.name!r} is reserved for the base and the donors",
            path=where,
            remedy="choose another name",
        )
    return row


def parse_targets(text: str, path: Path | str) -> tuple[TargetRow, ...]:
    """All rows of a sheet in order; blank lines and lines that begin with # are skipped.

    All wrong lines are reported at once, as SeveralMistakes.
    """
    lines = split_lines(text)
    check_line_breaks(lines, path)
    numbered = data_lines(lines)
    if not numbered:
        raise ConfigError(
            "the sheet is empty", path=path, expected="a line of column names and one line for each fine-tune"
        )
    header = cells(numbered[0][1])
    check_header(header, f"{path}:{numbered[0][0]}")
    seen: dict[str, int] = {}
    targets = []
    collector = MistakeCollector()
    for number, line in numbered[1:]:
        with collector.check():
            target = parse_line(line, header, f"{path}:{number}")
            if target.name in seen:
                raise ConfigError(
                    f"the name {target.name!r} is already used on line {seen[target.name]}",
                    path=f"{path}:{number}",
                )
            seen[target.name] = number
            targets.append(target)
    collector.raise_mistakes()
    if not targets:
        raise ConfigError(
            "the sheet has no fine-tune",
            path=path,
            expected="one line for each fine-tune below the column names",
        )
    return tuple(targets)


def read_sheet(path: Path) -> str:
    """The text of a sheet: UTF-8 or UTF-16; InputError where it is not readable."""
    try:
        text = read_text_file(path)
    except OSError as error:
        raise InputError(
            "cannot read the sheet of fine-tunes", path=path, expected="a tab-separated table",
            received=not_readable(error, path),
            remedy=beside(path) or "check the path; `contextgraft init` writes a sheet",
        ) from None  # fmt: skip
    except UnicodeDecodeError as error:
        raise InputError(
            "cannot read the sheet of fine-tunes", path=path, expected="tab-separated text in UTF-8",
            received=error, remedy="save it as UTF-8, or as UTF-16",
        ) from None  # fmt: skip
    if "\0" in text:
        raise InputError(
            "cannot read the sheet of fine-tunes", path=path, expected="tab-separated text in UTF-8",
            received="zero bytes", remedy="save it as UTF-8, or as UTF-16",
        )  # fmt: skip
    return text


def read_targets(path: Path) -> tuple[TargetRow, ...]:
    """Read and check a sheet; unreadable files raise InputError, wrong lines ConfigError with the number."""
    return parse_targets(read_sheet(path), path)
