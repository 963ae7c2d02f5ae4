"""Scores by document in `samples_*.jsonl` of lm-evaluation-harness (0.4.3 and later, with --log_samples)."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from typing_extensions import TypeIs

from contextgraft.checkpoint.strict_json import NotJson, parse_json
from contextgraft.config.text_file import open_regular
from contextgraft.errors import InputError, raise_read_error
from contextgraft.report.data.document_pairs import DocumentPairs, DocumentScores, metric_pairs
from contextgraft.report.data.lm_eval_results import files_below, model_name, visible_name

PATTERN = "samples_*.jsonl"
NAME = re.compile(r"samples_(?P<task>.+?)(?:_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+))?\.jsonl")
MOST_BYTES = 64_000_000  # of one line, which has the whole document and the prompt
REMEDY = "give what `lm_eval run --log_samples --output_path DIR` wrote: a file, or the folder of one run"
SAME_RUNS = "evaluate both models on the same documents, with the same examples and chat template"
ONLY_ONE = "only one of the two models has samples of it"


def find_samples_by_task(path: Path) -> dict[str, Path]:
    """The file of samples of each task, given or below a given folder; InputError unless each has one."""
    files: dict[str, Path] = {}
    for file in files_below(path, PATTERN, REMEDY):
        match = NAME.fullmatch(file.name)
        task = match["task"] if match else file.stem
        if task in files:
            raise InputError(
                f"has two files of samples of the task {visible_name(task)}", path=path,
                expected="one", received=f"{files[task].name}, {file.name}", remedy=REMEDY,
            )  # fmt: skip
        files[task] = file
    return files


def read_lm_eval_pairs(
    pairs: Iterable[tuple[dict[str, Path], dict[str, Path]]],
) -> tuple[DocumentPairs, ...]:
    """Every metric of every task that fine-tune and graft share; InputError where their documents differ."""
    return tuple(row for fine_tune, graft in pairs for row in _rows(fine_tune, graft))


def _rows(fine_tune: dict[str, Path], graft: dict[str, Path]) -> Iterator[DocumentPairs]:
    names = [_model(next(iter(files.values()))) for files in (fine_tune, graft)]
    if not fine_tune.keys() & graft.keys():
        raise InputError(
            "has no samples of the tasks of the graft", path=next(iter(fine_tune.values())),
            expected=", ".join(map(visible_name, graft)), received=", ".join(map(visible_name, fine_tune)),
            remedy="evaluate both models on the same tasks",
        )  # fmt: skip
    for task in dict.fromkeys([*fine_tune, *graft]):
        if task not in fine_tune or task not in graft:
            yield DocumentPairs(names[0], names[1], visible_name(task), "", reason=ONLY_ONE)
            continue
        sides = [
            read_document_scores(files[task], name, visible_name(task))
            for files, name in zip((fine_tune, graft), names, strict=True)
        ]
        check_same_documents(sides[0], sides[1], fine_tune[task], graft[task])
        yield from metric_pairs(*sides)


def check_same_documents(first: DocumentScores, second: DocumentScores, path: Path, other: Path) -> None:
    """Raise InputError, which names both files, unless both have the same documents and prompts."""
    differing = sorted(
        document
        for document in first.hashes.keys() | second.hashes.keys()
        if first.hashes.get(document) != second.hashes.get(document)
    )
    if differing:
        document = differing[0]
        absent = "", ""
        sides = first.hashes.get(document, absent), second.hashes.get(document, absent)
        what = "prompts" if sides[0][0] == sides[1][0] else "documents"
        raise InputError(
            f"{len(differing)} {what} are not those of {other}", path=path,
            expected="the same doc_id, doc_hash and prompt_hash in both files",
            received=f"another one for doc_id {document}", remedy=SAME_RUNS,
        )  # fmt: skip


def read_document_scores(path: Path, model: str, task: str) -> DocumentScores:
    """The scores in one file; InputError for a line that is not a sample of lm-eval."""
    hashes: dict[int, tuple[str, str]] = {}
    scores: dict[str, dict[int, float | None]] = {}
    for number, row in enumerate(_lines(path), 1):
        document, metrics, filtered = row.get("doc_id"), row.get("metrics"), row.get("filter", "none")
        digests: Any = row.get("doc_hash"), row.get("prompt_hash") or ""
        if not _is_index(document) or not all(isinstance(text, str) for text in (*digests, filtered)):
            raise _not_a_sample(path, number, "no doc_id and doc_hash")
        if not isinstance(metrics, list):
            raise _not_a_sample(path, number, "no list `metrics`")
        if hashes.setdefault(document, digests) != digests:
            raise _not_a_sample(path, number, f"two documents with the doc_id {document}")
        for metric in map(str, metrics):
            name = visible_name(metric if filtered == "none" else f"{metric}, {filtered}")
            own = scores.setdefault(name, {})
            if document in own:
                raise _not_a_sample(path, number, f"the doc_id {document} twice")
            own[document] = _number(row.get(metric))
    if not scores:
        raise _not_a_sample(path, 1, "nothing")
    return DocumentScores(model, task, hashes, scores)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with open_regular(path) as file:
            while line := file.readline(MOST_BYTES + 1):
                number += 1
                if len(line) > MOST_BYTES:
                    raise NotJson(f"a line of more than {MOST_BYTES:,} bytes")
                row = parse_json(line, finite=False)
                if not isinstance(row, dict):
                    raise NotJson("not an object")
                yield row
    except (OSError, NotJson) as error:
        raise_read_error(error, path)
        received = getattr(error, "strerror", None) or str(error)
        raise _not_a_sample(path, number, received) from None


def _not_a_sample(path: Path, number: int, received: str) -> InputError:
    return InputError(
        f"line {number} is not a sample of lm-evaluation-harness", path=path, received=received, remedy=REMEDY
    )


def _model(path: Path) -> str:
    """The name in the result file of the same run, else that of the folder, which lm-eval names so."""
    match = NAME.fullmatch(path.name)
    results = path.with_name(f"results_{match['date']}.json") if match and match["date"] else None
    if results is not None and results.is_file():
        return model_name(results)
    return visible_name(path.absolute().parent.name)


def _is_index(value: Any) -> TypeIs[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    """A score; None for lists (perplexities), texts, and numbers that are not finite."""
    if not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return float(value)
