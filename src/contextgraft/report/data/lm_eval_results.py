"""Scores in the result files of lm-evaluation-harness (0.4 and later), which others may have written."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypeIs

from contextgraft.checkpoint.strict_json import NotJson, parse_json
from contextgraft.config.text_file import list_below, open_regular
from contextgraft.errors import InputError, raise_read_error
from contextgraft.report.data.clean_rows import LONGEST_NAME, REPLACEMENT

MAX_BYTES = 100_000_000  # of one file; its configurations of tasks are long
PATTERN = "results*.json"
STDERR = "_stderr"
REMEDY = "give the file that `lm_eval run --output_path DIR` wrote, or a folder that contains it"


@dataclass(frozen=True)
class LmEvalScore:
    """One metric of one task of one model; without a value, `reason` says what is wrong with the row.

    `n` is the number of documents, None for groups of tasks and in files that do not say it.
    """

    file: str
    model: str
    task: str
    metric: str
    value: float | None
    stderr: float | None
    n: int | None
    higher_is_better: bool | None
    reason: str = ""


def find_lm_eval_files(given: Iterable[Path]) -> list[tuple[Path, str]]:
    """Every result file given or below a given folder, each once, with its name; InputError for none."""
    files: dict[Path, tuple[Path, str]] = {}
    for path in given:
        for file in files_below(path, PATTERN, REMEDY):
            name = path.name if file == path else file.relative_to(path).as_posix()
            files.setdefault(file.resolve(), (file, name))
    return sorted(files.values(), key=lambda item: (item[1], str(item[0])))


def files_below(path: Path, pattern: str, remedy: str) -> list[Path]:
    """A given file, or those below a given folder that are not hidden, by name; InputError for none."""
    below = [path] if path.is_file() else list_below(path, pattern)
    if not below:
        what = f"contains no {pattern}" if path.is_dir() else "no such file or folder"
        raise InputError(what, path=path, remedy=remedy)
    return below


def read_lm_eval_results(files: Iterable[tuple[Path, str]]) -> tuple[LmEvalScore, ...]:
    """The scores of files with names, a row for each metric; InputError for one that is not of lm-eval."""
    rows: dict[LmEvalScore, None] = {}
    for path, name in files:
        content = _content(path)
        rows |= dict.fromkeys(_scores(content, visible_name(name)))
    return tuple(rows)


def _content(path: Path) -> dict[str, Any]:
    """The object of a file with `results`; numbers need not be finite, for their rows are refused later."""
    try:
        with open_regular(path) as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise NotJson(f"more than {MAX_BYTES:,} bytes")
        content = parse_json(raw, finite=False)
    except (OSError, NotJson) as error:
        raise_read_error(error, path)
        received = getattr(error, "strerror", None) or str(error)
        raise InputError("cannot be read as JSON", path=path, received=received, remedy=REMEDY) from None
    if isinstance(content, dict):
        results = content.get("results")
        if isinstance(results, dict) and any(isinstance(item, dict) for item in results.values()):
            return content
    raise InputError("has no results of lm-evaluation-harness", path=path, remedy=REMEDY)


def model_name(path: Path) -> str:
    """The name of the model of a result file; InputError for one that is not of lm-eval."""
    return _model_name(_content(path))


def _model_name(content: Mapping[str, Any]) -> str:
    return visible_name(
        content.get("model_name") or _table(content, "config").get("model") or "unknown model"
    )


def _scores(content: Mapping[str, Any], file: str) -> Iterator[LmEvalScore]:
    model = _model_name(content)
    counts, better = _table(content, "n-samples"), _table(content, "higher_is_better")
    for task, values in content["results"].items():
        if not isinstance(values, dict):
            yield _refused(file, model, task, "", "is not a table of metrics")
            continue
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith(STDERR):
                continue
            name = metric if filtered == "none" else f"{metric}, {filtered}"
            stderr = values.get(f"{metric}{STDERR},{filtered}")
            n = _table(counts, task).get("effective")
            defect = _defect(value, stderr, n)
            if defect:
                yield _refused(file, model, task, name, defect)
                continue
            higher = _table(better, task).get(metric)
            error = float(stderr) if _is_number(stderr) else None
            direction = higher if isinstance(higher, bool) else None
            yield LmEvalScore(
                file, model, visible_name(task), visible_name(name), float(value), error, n, direction
            )


def _defect(value: Any, stderr: Any, n: Any) -> str:
    """What is wrong with a row; empty if nothing is. Without bootstrapping, lm-eval writes N/A for stderr."""
    if not _is_number(value):
        return f"invalid row: value {_shown(value)}"
    if stderr not in (None, "N/A") and not (_is_number(stderr) and stderr >= 0):
        return f"invalid row: stderr {_shown(stderr)}"
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 0 < n < 10**12):
        return f"invalid row: n {_shown(n)}"
    return ""


def _refused(file: str, model: str, task: str, metric: str, reason: str) -> LmEvalScore:
    return LmEvalScore(file, model, visible_name(task), visible_name(metric), None, None, None, None, reason)


def _is_number(value: Any) -> TypeIs[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _table(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _shown(value: Any) -> str:
    return visible_name(json.dumps(value, ensure_ascii=False))


def visible_name(value: object) -> str:
    """A text that is short and has no characters that cannot be seen."""
    text = "".join(c if c.isprintable() else REPLACEMENT for c in str(value)[: LONGEST_NAME + 1])
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"
