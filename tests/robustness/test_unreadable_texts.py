"""A small file that cannot be read now is not taken for one that is missing, empty or malformed."""

import errno
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from tests.robustness.test_unreadable_files import content, no_more_files

from contextgraft.checkpoint.replaceable import check_json_replaceable
from contextgraft.config.base import read_yaml
from contextgraft.config.target_sheet import read_sheet
from contextgraft.config.text_file import path_exists
from contextgraft.errors import CheckpointError, ReadError, raise_read_error
from contextgraft.evaluation.backends import loading
from contextgraft.evaluation.suites.skill_file import read_skill_file
from contextgraft.formats import alignment, read_alignment, samples
from contextgraft.formats.find_samples import find_sample_files
from contextgraft.formats.model.own_files import check_own_file
from contextgraft.formats.model_card.licence import read_licence
from contextgraft.formats.sidecar import is_record, read_records
from contextgraft.prompts.haystack import read_haystack
from contextgraft.prompts.ruler.qa import read_dataset
from contextgraft.report.data.lm_eval_results import find_lm_eval_files, read_lm_eval_results
from contextgraft.report.data.lm_eval_samples import read_document_scores
from contextgraft.sources.cache_lock import LOCK, shared_entry
from contextgraft.sources.cached_revisions import key_of, repository_commit
from contextgraft.sources.hub.client import Hub
from contextgraft.training.data.sources import read_pairs
from contextgraft.training.reporting import metrics

COMMIT = "c" * 40
QA = {"data": [{"paragraphs": [{"context": "a b", "qas": [{"question": "q", "answers": [{"text": "b"}]}]}]}]}
RESULTS = {"results": {"task": {"acc,none": 0.5}}}
SAMPLE = {"doc_id": 0, "doc_hash": "d", "metrics": ["acc"], "acc": 1.0}


class Case(NamedTuple):
    """The content of a file, and what reads it."""

    content: str
    read: Callable[[Path], Any]


def shared(file: Path) -> bool:
    with shared_entry(file.parent) as there:
        return there


def records(file: Path) -> list[str]:
    return read_records([file.parent], "graft", "remedy", lambda content, _: str(content["kind"]))


def replaceable(file: Path) -> bool:
    check_json_replaceable(file, ["a"], "a file")
    return True


TEXTS = {
    "skill.jsonl": Case('{"prompt": "a", "answer": "b"}', read_skill_file),
    "pairs.jsonl": Case('{"prompt": "a", "answer": "b"}', read_pairs),
    "sheet.tsv": Case("name\tsource\n", read_sheet),
    "study.yaml": Case("study: s", read_yaml),
    "haystack.txt": Case("a text", lambda file: read_haystack(file.name, file.parent)),
    "squad.json": Case(json.dumps(QA), lambda file: read_dataset("qa_1", file)),
    "results.json": Case(json.dumps(RESULTS), lambda file: read_lm_eval_results([(file, "f")])),
    "samples.jsonl": Case(json.dumps(SAMPLE), lambda file: read_document_scores(file, "m", "t")),
    "README.md": Case("---\nlicense: mit\n---\n", read_licence),
    "generation_config.json": Case(
        '{"eos_token_id": 5}', lambda file: loading._generation_config(str(file.parent)).eos_token_id
    ),
    LOCK: Case("", shared),
    "contextgraft.json": Case('{"kind": "graft"}', records),
    "recommendation.json": Case('{"a": 1}', replaceable),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_text(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / name
    file.write_text(TEXTS[name].content)
    assert TEXTS[name].read(file)
    opened, before = os.open, content(tmp_path)

    def fail(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(os.fsdecode(path)).name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)
    if name in ("squad.json", "generation_config.json"):  # opened by Python's open
        with no_more_files(), pytest.raises(ReadError, match="cannot be read; received Too many open files"):
            TEXTS[name].read(file)
        return
    with pytest.raises(ReadError, match="cannot be read; received Input/output error"):
        TEXTS[name].read(file)
    assert content(tmp_path) == before


TABLES: dict[str, tuple[Any, Callable[[Path], object]]] = {
    "samples": (samples.SCHEMA.with_metadata({samples.RUN: b"r"}), samples.check_replaceable),
    "alignment": (alignment.SCHEMA, read_alignment.check_replaceable),
    "metrics": (metrics.SCHEMA, lambda path: metrics.read_previous(path, 1)),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_not_to_be_removed(tmp_path: Path, name: str) -> None:
    """The remedy for another file, to remove it, would lose a good table."""
    schema, check = TABLES[name]
    pq.write_table(schema.empty_table(), tmp_path / "t.parquet")
    check(tmp_path / "t.parquet")
    with no_more_files(), pytest.raises(ReadError, match="received Too many open files"):
        check(tmp_path / "t.parquet")


def fail(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_record_in_the_place_of_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "contextgraft.json").write_text('{"kind": "graft"}')
    assert is_record(tmp_path)
    monkeypatch.setattr("contextgraft.checkpoint.model_folder.open_regular", fail)
    with pytest.raises(ReadError):
        is_record(tmp_path)


def test_a_link_is_not_called_a_link_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to("a")
    check_own_file(tmp_path, "link")
    monkeypatch.setattr(Path, "resolve", fail)
    with pytest.raises(ReadError):
        check_own_file(tmp_path, "link")


def test_a_path_on_a_failing_disk_is_not_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not path_exists("x" * 5_000)
    monkeypatch.setattr(Path, "exists", fail)
    with pytest.raises(ReadError):
        path_exists("a")


@pytest.mark.parametrize("find", [find_sample_files, find_lm_eval_files])
def test_results_in_a_folder_that_may_not_be_read_are_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: Callable[[list[Path]], Sequence[object]]
) -> None:
    """A page without some fine-tunes would look like one of a smaller study."""
    for name in ("a", "b", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "s.parquet").touch()
        (tmp_path / name / "results_2025.json").touch()
    assert len(find([tmp_path])) == 2
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name in ("b", ".hidden"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ReadError, match="b: cannot be read; received Permission denied"):
        find([tmp_path])


def test_what_a_branch_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without network it is an error; with it, the hub knows the commit."""
    hub = Hub()
    file = tmp_path / key_of(hub.api.endpoint, "owner/name", "")
    file.write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert repository_commit("hf:owner/name", hub, tmp_path) == ("owner/name", COMMIT)
    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(ReadError):
        repository_commit("hf:owner/name", hub, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = type("Listing", (), {"commit": COMMIT})
    monkeypatch.setattr("contextgraft.sources.cached_revisions.resolve_repository", lambda *_: found)
    assert repository_commit("hf:owner/name", hub, tmp_path) == ("owner/name", COMMIT)
    assert file.read_bytes() == COMMIT.encode()


@pytest.mark.parametrize("error", [CheckpointError, KeyError, ValueError, TypeError])
def test_words_of_a_stranger_are_no_failing_disk(error: type[Exception]) -> None:
    """Else a config with these words would stop a batch: such an error is no refusal."""
    raise_read_error(error("unknown activation: No such device (os error 5)"), "m")
    raise_read_error(RuntimeError("No such device (os error 5) is no activation"), "m")
