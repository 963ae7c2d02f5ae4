"""Needle formats, and how lists of ids are joined."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contextgraft.errors import ConfigError, InputError
from contextgraft.prompts.needle_format import NeedleFormat, load_format
from contextgraft.prompts.templates import Wording
from contextgraft.prompts.tokens import cycle_tokens, interleave


@given(st.lists(st.integers(), min_size=1), st.integers(0, 40), st.integers(0, 100))
def test_cycle_tokens_starts_again_at_the_end(ids: list[int], offset: int, count: int) -> None:
    offset %= len(ids)
    assert cycle_tokens(ids, offset, count) == [ids[(offset + i) % len(ids)] for i in range(count)]


@given(st.lists(st.integers(0, 99), max_size=20), st.lists(st.integers(0, 20), max_size=5))
def test_interleave_keeps_everything(filler: list[int], cuts: list[int]) -> None:
    inserts = [(min(c, len(filler)), [-1000 - i]) for i, c in enumerate(sorted(cuts))]
    out = interleave(filler, inserts)
    assert [x for x in out if x > -1000] == [x for x in filler if x > -1000]
    assert len(out) == len(filler) + len(cuts)
    for cut, (mark,) in inserts:
        assert len([x for x in out[: out.index(mark)] if x > -1000]) == cut


def test_unknown_key_of_a_format_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("name: x\nneedel: y\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        load_format(path)
    assert "needle" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_kind_without_templates_is_refused_in_one_line(fmt: NeedleFormat) -> None:
    bare = fmt.model_copy(update={"chain": None})
    assert bare.kinds() == [kind for kind in fmt.kinds() if kind != "chain"]
    with pytest.raises(InputError, match="format plain has no wording for chain questions") as error:
        bare.wording("chain")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "templates", "complaint"),
    [
        ("multi_value", {"question": "which?"}, "multi_value: question must contain {key}"),
        ("multi_query", {"question": "of {key}?"}, "multi_query: question must contain {keys}"),
        ("multi_query", {"question": "{keys}?", "answer": "{value}"}, "answer must contain {answers}"),
        ("chain", {"question": "{value}?"}, "chain: link must contain {key} and {previous}"),
        ("multi_query", {"question": "{keys}?", "item": "the"}, "multi_query: item must contain {value}"),
        (
            "chain",
            {"question": "{value}?", "link": "{key} {previous}", "item": "{key} {value}"},
            "chain: item must contain {key} alone",
        ),
        (
            "labels",
            {"question": "{key}?", "answer": "{value}", "item": "{value}"},
            "labels: item has a meaning only where answer contains {answers}",
        ),
        ("multi_value", {"question": "{key}?", "keys": ["a", "a"]}, "multi_value: keys must be distinct"),
        (
            "association",
            {
                "needle": "{clue} {value}",
                "question": "{key}?",
                "answer": "{value}",
                "associations": {"a": "x", "b": "x"},
            },
            "the clues of associations must be distinct",
        ),
        (
            "chain",
            {"question": "{value}?", "link": "{key} {previous}", "keys": ["a", "b"], "values": ["b", "c"]},
            "chain: no key may be a value",
        ),
    ],
)
def test_templates_without_their_slots_are_refused(
    fmt: NeedleFormat, kind: str, templates: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        NeedleFormat.model_validate({**fmt.model_dump(), kind: templates})


def test_wordings_take_what_they_leave_open_from_the_format(fmt: NeedleFormat) -> None:
    wording = fmt.wording("multi_query")
    assert (wording.intro, wording.needle) == (fmt.intro, fmt.needle)
    items = [{"key": "harbor", "value": "1"}, {"key": "anchor", "value": "2"}]
    assert wording.question_text(items) == " What are the codes of harbor, anchor? They are"
    assert wording.answer_text("multi_query", items) == " 1, 2"
    assert Wording(question="{key}").answer_text("multi_value", items) == "1, 2"


def test_each_answer_may_stand_behind_its_key(fmt: NeedleFormat) -> None:
    items = [{"key": "harbor", "value": "1"}, {"key": "anchor", "value": "2"}]
    wording = fmt.wording("multi_query").model_copy(update={"item": "{key} {value}"})
    assert wording.answer_text("multi_query", items) == " harbor 1, anchor 2"
    assert "item" not in fmt.wording("multi_query").described  # digests of older prompts stay
    assert wording.described["item"] == "{key} {value}"
