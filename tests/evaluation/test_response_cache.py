"""The journal: every answer on disk at once, a torn line dropped, requests told apart by all they say."""

from pathlib import Path

import pytest

from contextgraft.evaluation.requests import arguments, cut, ids_to_request, request_to_ids
from contextgraft.evaluation.response_cache import Journal, read, request_key


def test_answers_are_on_disk_at_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    counts: list[int] = []
    with Journal(path, counts.append) as journal:
        journal.add("a", "näh\nne")
        journal.add("b", "")
        assert read(path) == {"a": "näh\nne", "b": ""}
    with Journal(path, counts.append) as journal:
        assert (journal.get("a"), journal.get("b"), journal.get("c")) == ("näh\nne", "", None)
        journal.add("c", "x")
    assert read(path) == {"a": "näh\nne", "b": "", "c": "x"}
    assert counts == [1, 1, 1]


@pytest.mark.parametrize("lost", range(1, 30, 4))
def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, lambda _: None) as journal:
        journal.add("a", "one")
        journal.add("b", "two")
    path.write_bytes(path.read_bytes()[:-lost])
    assert read(path) == {"a": "one"}
    with Journal(path, lambda _: None) as journal:
        assert journal.get("b") is None
        journal.add("b", "again")
    assert read(path) == {"a": "one", "b": "again"}


def test_a_journal_without_answers_leaves_no_file(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl", lambda _: None):
        pass
    assert list(tmp_path.iterdir()) == []


def test_requests_differ_by_prompt_budget_and_stop_texts() -> None:
    some = [("1 2", 3, []), ("1 2", 4, []), ("1 3", 3, []), ("1 2", 3, ["."]), ("1 2", 3, [".", ""])]
    assert len({request_key(arguments(*each)) for each in some}) == len(some)


def test_ids_survive_a_request() -> None:
    assert request_to_ids(ids_to_request((0, 128_255, 7))) == [0, 128_255, 7]


def test_text_is_cut_at_the_first_stop_text() -> None:
    assert cut("one. two\nthree", ["\n", ". "]) == "one"
    assert cut("one", ["", "x"]) == "one"
