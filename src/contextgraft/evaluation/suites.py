"""The suites a user asks for, read from their files and checked before any model is loaded."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.digest import file_digest, json_digest
from contextgraft.errors import InputError
from contextgraft.prompts import haystack
from contextgraft.prompts.needle import NeedleFormat, load_format

DEFAULT_FORMAT = Path(__file__).parent / "needle_default.yaml"


@dataclass(frozen=True)
class NeedleGrid:
    """Lengths in tokens (prompt and answer) x depths in percent, `samples` prompts a cell."""

    format: NeedleFormat
    haystack: str
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    samples: int
    distractors: int


@dataclass(frozen=True)
class Skill:
    """Prompt and answer a line; `samples` of them are asked, all if it is None."""

    name: str
    file: str
    digest: str
    lines: tuple[tuple[str, str], ...]
    samples: int | None


@dataclass(frozen=True)
class Exam:
    """Everything every model of a run is asked."""

    grid: NeedleGrid | None
    skills: tuple[Skill, ...]
    seed: int


def read_grid(
    format_path: Path | None,
    *,
    lengths: tuple[int, ...],
    depths: tuple[float, ...],
    samples: int,
    distractors: int,
) -> NeedleGrid:
    """A grid with the format of a YAML file, or the shipped one; raises InputError or ConfigError."""
    path = format_path or DEFAULT_FORMAT
    fmt = load_format(path)
    return NeedleGrid(fmt, haystack.read(fmt.haystack, path.parent), lengths, depths, samples, distractors)


def read_skill(path: Path, samples: int | None = None) -> Skill:
    """A skill from JSONL, one {"prompt", "answer"} a line; raises InputError naming the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read the skill file", path=path, received=str(error)) from None
    numbered = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = tuple(read_line(path, n, line) for n, line in numbered)
    if not lines:
        raise InputError("the skill file is empty", path=path)
    if samples is not None and samples > len(lines):
        raise InputError(
            "fewer lines than samples asked for", path=path, expected=samples, received=len(lines)
        )
    return Skill(path.stem, path.name, file_digest(path), lines, samples)


def read_line(path: Path, number: int, line: str) -> tuple[str, str]:
    """Prompt and answer of one line of JSON."""
    try:
        item: Any = json.loads(line)
    except ValueError:
        item = None
    item = item if isinstance(item, dict) else {}
    prompt, answer = item.get("prompt"), item.get("answer")
    if not (isinstance(prompt, str) and isinstance(answer, str) and prompt.strip() and answer.strip()):
        raise InputError(
            f"line {number} is no question",
            path=path,
            expected='{"prompt": text, "answer": text}',
            received=line[:60],
        )
    return prompt, answer


def exam_digest(exam: Exam) -> str:
    """sha256 of all that decides which questions are asked; file names do not."""
    grid = exam.grid
    return json_digest(
        {
            "needle": grid
            and {
                "format": grid.format.model_dump(mode="json"),
                "haystack": hashlib.sha256(grid.haystack.encode()).hexdigest(),
                "lengths": grid.lengths,
                "depths": grid.depths,
                "samples": grid.samples,
                "distractors": grid.distractors,
            },
            "skills": [[skill.name, skill.digest, skill.samples] for skill in exam.skills],
            "seed": exam.seed,
        }
    )
