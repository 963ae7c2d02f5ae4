"""The suites a user asks for, read from their files and checked before any model is loaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.checkpoint.digest import file_digest, json_digest
from contextgraft.config.ruler_tasks import RULER_TASKS
from contextgraft.errors import InputError
from contextgraft.prompts.generators import GENERATORS
from contextgraft.prompts.haystack import NEEDLES, Haystack, find_haystack, read_haystack
from contextgraft.prompts.needle_format import NeedleFormat, load_format
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS, SINGLE, check_needle_kinds
from contextgraft.prompts.ruler.qa import QaDataset, read_dataset
from contextgraft.prompts.ruler.tasks import QA_TASKS, RulerWording, check_tasks, load_wording
from contextgraft.prompts.sampling import NeedlePools

DEFAULT_FORMAT = Path(__file__).parent / "needle_default.yaml"


@dataclass(frozen=True)
class NeedleGrid:
    """Lengths in tokens (prompt and answer) x depths in percent, `samples` prompts a cell.

    `count` needles are asked for by one question; kinds other than `single` have no depths. `values` is a
    generator to use instead of the format's values.
    """

    format: NeedleFormat
    haystack: Haystack
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    samples: int
    distractors: int
    kind: str = SINGLE
    count: int = 1
    values: str | None = None

    @property
    def shared(self) -> bool:
        """Whether one text holds the needles of all depths: they are then each other's distractors."""
        return not NEEDLE_KINDS[self.kind].per_depth or self.distractors >= len(self.depths) - 1

    @property
    def source(self) -> NeedlePools:
        """What keys and values are drawn from."""
        return self.format.pools(self.values, self.haystack.text)

    def digest(self) -> str:
        """Digest of all that decides how a recipe becomes a prompt."""
        return json_digest(
            {
                "wording": self.format.wording(self.kind).model_dump(),
                "keys": self.source.keys,
                "values": self.source.values,
                "words": self.source.value_words,
                "chat": self.format.chat,
                "haystack": [self.haystack.name, self.haystack.text],
            }
        )


@dataclass(frozen=True)
class RulerSuite:
    """Tasks of RULER by name, `samples` prompts a task and length; `qa` holds the data sets of qa tasks."""

    wording: RulerWording
    haystacks: Mapping[str, Haystack]
    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    samples: int
    qa: Mapping[str, QaDataset]

    def digest(self, task: str) -> str:
        """Digest of all that decides how a recipe of the task becomes a prompt."""
        haystacks = [[name, each.text] for name, each in sorted(self.haystacks.items())]
        data = self.qa[task].digest if task in self.qa else None
        return json_digest({"wording": self.wording.model_dump(), "haystacks": haystacks, "data": data})


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

    grids: tuple[NeedleGrid, ...] = ()
    skills: tuple[Skill, ...] = ()
    seed: int = 0
    ruler: RulerSuite | None = None


def read_grid(
    format_path: Path | None,
    *,
    lengths: tuple[int, ...],
    depths: tuple[float, ...],
    samples: int,
    distractors: int,
    kind: str = SINGLE,
    count: int | None = None,
    haystack: str | None = None,
    values: str | None = None,
) -> NeedleGrid:
    """A grid with the format of a YAML file, or the shipped one; raises InputError or ConfigError.

    `haystack` and `values` replace the format's own; a haystack's path is relative to the working directory.
    """
    path = format_path or DEFAULT_FORMAT
    fmt = load_format(path)
    check_needle_kinds([kind])
    fmt.wording(kind)
    if values is not None and values not in GENERATORS:
        raise InputError(
            "no such generator of values", expected=f"one of {', '.join(GENERATORS)}", received=values
        )
    name, folder = (fmt.haystack, path.parent) if haystack is None else (haystack, Path())
    found = find_haystack(name, folder, lambda: plain_text(fmt, path.parent))
    asked = 1 if NEEDLE_KINDS[kind].per_depth else count or NEEDLE_KINDS[kind].count
    return NeedleGrid(fmt, found, lengths, depths, samples, distractors, kind, asked, values)


def plain_text(fmt: NeedleFormat, folder: Path) -> str:
    """The text that fills what needles leave of a haystack made of them."""
    return read_haystack("prose" if fmt.haystack == NEEDLES else fmt.haystack, folder)


def read_ruler(
    *,
    lengths: tuple[int, ...],
    samples: int,
    tasks: tuple[str, ...] | None = None,
    wording: Path | None = None,
    qa: Mapping[str, Path] | None = None,
) -> RulerSuite:
    """RULER's tasks; all but the qa tasks without data if none is named. Raises InputError or ConfigError.

    `qa` maps qa_1 to a file in SQuAD's form, qa_2 to one in HotpotQA's; `wording` is a YAML file.
    """
    files = dict(qa or {})
    check_tasks(tuple(files), tuple(QA_TASKS))
    chosen = tuple(task for task in RULER_TASKS if task not in QA_TASKS or task in files)
    if tasks is not None:
        check_tasks(tasks, RULER_TASKS)
        chosen = tasks
    missing = [task for task in chosen if task in QA_TASKS and task not in files]
    if missing:
        raise InputError(f"{missing[0]} needs a data set", remedy="give its file, or leave the task out")
    templates, haystacks = load_wording(wording)
    data = {task: read_dataset(task, files[task]) for task in chosen if task in QA_TASKS}
    return RulerSuite(templates, haystacks, chosen, lengths, samples, data)


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
    return json_digest(
        {
            "needle": [grid_content(grid) for grid in exam.grids],
            "ruler": exam.ruler
            and {
                "tasks": {task: exam.ruler.digest(task) for task in exam.ruler.tasks},
                "order": exam.ruler.tasks,
                "lengths": exam.ruler.lengths,
                "samples": exam.ruler.samples,
            },
            "skills": [[skill.name, skill.digest, skill.samples] for skill in exam.skills],
            "seed": exam.seed,
        }
    )


def grid_content(grid: NeedleGrid) -> dict[str, Any]:
    """What decides a grid's questions, as JSON."""
    return {
        "format": grid.format.model_dump(mode="json"),
        "prompts": grid.digest(),
        "lengths": grid.lengths,
        "depths": grid.depths,
        "samples": grid.samples,
        "distractors": grid.distractors,
        "kind": grid.kind,
        "count": grid.count,
    }
