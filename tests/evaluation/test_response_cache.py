"""The response cache: responses on disk at once, an incomplete line dropped, one key per request."""

from hashlib import sha256
from pathlib import Path

import pytest

from contextgraft.evaluation.backends.base import GenerationRequest, cut_at_stop
from contextgraft.evaluation.response_cache import ResponseCache, read_responses, request_key


def test_answers_are_on_disk_at_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    counts: list[int] = []
    with ResponseCache(path, counts.append) as cache:
        cache.add("a", "näh\nne")
        cache.add("b", "")
        assert read_responses(path) == {"a": "näh\nne", "b": ""}
    with ResponseCache(path, counts.append) as cache:
        assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("näh\nne", "", None)
        cache.add("c", "x")
    assert read_responses(path) == {"a": "näh\nne", "b": "", "c": "x"}
    assert counts == [1, 1, 1]


@pytest.mark.parametrize("lost", range(1, 30, 4))
def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "j.jsonl"
    with ResponseCache(path, lambda _: None) as cache:
        cache.add("a", "one")
        cache.add("b", "two")
    path.write_bytes(path.read_bytes()[:-lost])
    assert read_responses(path) == {"a": "one"}
    with ResponseCache(path, lambda _: None) as cache:
        assert cache.get("b") is None
        cache.add("b", "again")
    assert read_responses(path) == {"a": "one", "b": "again"}


def test_a_cache_without_answers_leaves_no_file(tmp_path: Path) -> None:
    with ResponseCache(tmp_path / "j.jsonl", lambda _: None):
        pass
    assert list(tmp_path.iterdir()) == []


def test_requests_differ_by_prompt_budget_and_stop_texts() -> None:
    some = [((1, 2), 3, ()), ((1, 2), 4, ()), ((1, 3), 3, ()), ((1, 2), 3, (".",)), ((1, 2), 3, (".", ""))]
    assert len({request_key(GenerationRequest(*each)) for each in some}) == len(some)


def test_the_key_of_a_request_stays_so_that_older_runs_can_be_resumed() -> None:
    request = GenerationRequest((1, 2), 3, (".",))
    text = '["1 2", {"do_sample": false, "max_gen_toks": 3, "until": ["."]}]'
    assert request_key(request) == sha256(text.encode()).hexdigest()


def test_text_is_cut_at_the_first_stop_text() -> None:
    assert cut_at_stop("one. two\nthree", ["\n", ". "]) == "one"
    assert cut_at_stop("one", ["", "x"]) == "one"


def spoiled_caches(raw: bytes) -> dict[str, bytes]:
    first, second, third = raw.splitlines(keepends=True)
    return {
        "zeros at the end": first + second[:10] + bytes(500),
        "zeros before": bytes(300) + b"\n" + second,
        "one byte": first.replace(b"one", b"onf") + second + third,
        "another answer": first + second.replace(b"two", b"six") + third,
        "another key": first.replace(b'"a"', b'"z"') + second,
        "no JSON": first + b"{]\n" + second,
        "a number": first + b"7\n" + third,
        "a list": b"[]\n" + third,
        "keys missing": b'{"key": "a"}\n' + second,
        "no text": first + b'{"key": ["a"], "output": 7}\n' + second,
        "nested deep": b"[" * 100_000 + b"\n" + third,
        "no UTF-8": b'{"key": "\xff"}\n' + second,
        "an older version": b'{"key": "a", "output": "one"}\n' + second,
    }


def test_spoiled_lines_are_not_believed_and_the_others_are(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    right = {"a": "one", "b": "two", "c": "three"}
    with ResponseCache(path, lambda _: None) as cache:
        for key, output in right.items():
            cache.add(key, output)
    for what, raw in spoiled_caches(path.read_bytes()).items():
        path.write_bytes(raw)
        kept = read_responses(path)
        assert 0 < len(kept) < 3, what
        assert kept.items() <= right.items(), what
        with ResponseCache(path, lambda _: None) as cache:
            for key in right.keys() - kept.keys():
                assert cache.get(key) is None
                cache.add(key, right[key])
        assert read_responses(path) == right
