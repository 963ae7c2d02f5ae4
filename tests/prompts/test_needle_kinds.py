"""The registry of needle kinds: a kind is added in one place."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from contextgraft.errors import ConfigError, InputError
from contextgraft.evaluation.suites.needle_grid import DEFAULT_FORMAT
from contextgraft.prompts.haystack import Haystack, tokenize_haystack
from contextgraft.prompts.needle_format import NeedleFormat, load_format
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS, NeedleKind, check_needle_kinds, sample_multi_query
from contextgraft.prompts.needle_prompt import PromptTemplate, build_prompt, draw_prompt_spec

SLOTS = {"needle": ("{key}", "{value}"), "question": ("{value}",), "answer": ("{answers}",)}


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - {"the", "to", "of", "in", "is", "a"}


def test_needle_and_question_of_an_association_share_no_word() -> None:
    """The question, with its lead, cannot be found by its words: only by what is known of the clue."""
    wording = load_format(DEFAULT_FORMAT).wording("association")
    assert wording.associations
    clues = " ".join(wording.associations.values())
    said = words_of(wording.needle.format(value="", clue=clues))
    requested = f"{wording.question} {wording.lead}".format(key=" ".join(wording.associations))
    assert said & words_of(requested) == set()


def test_an_unknown_kind_is_one_line_with_the_known_ones() -> None:
    check_needle_kinds(NEEDLE_KINDS)
    with pytest.raises(InputError, match="unknown kind of needle question") as error:
        check_needle_kinds(["single", "chian"])
    assert str(error.value).endswith(
        "expected one of single, multi_value, multi_query, chain, association, key_value, labels; "
        "received chian; did you mean chain?"
    )


def test_a_new_kind_needs_one_entry(
    fmt: NeedleFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {name: value for name, value in fmt.model_dump(mode="json").items() if value is not None}
    path = tmp_path / "format.yaml"
    path.write_text(yaml.safe_dump({**content, "reverse": {"question": " Who has {value}?"}}))
    with pytest.raises(ConfigError, match=r"format.yaml: unknown key 'reverse'; expected one of .*chain"):
        load_format(path)

    monkeypatch.setitem(
        NEEDLE_KINDS, "reverse", NeedleKind(sample_multi_query, SLOTS, answer_field="key", count=2)
    )
    extended = load_format(path)
    assert extended.kinds()[-1] == "reverse"
    encode = lambda text: [ord(letter) for letter in text]  # noqa: E731
    haystack = tokenize_haystack(Haystack("sea", "The sea is wide. "), encode)
    template = PromptTemplate(extended.wording("reverse"), extended.pools(), encode, haystack)
    prompt_spec = draw_prompt_spec(
        template.pools,
        "reverse",
        length=400,
        depths=(),
        count=2,
        distractors=1,
        rng=np.random.default_rng(0),
        offsets=haystack.offset_count,
    )
    prompt = build_prompt(template, {**prompt_spec, "asked": 0})
    first, second, _ = prompt_spec["items"]
    assert "".join(map(chr, prompt.ids)).endswith(f" Who has {first['value']}?")
    assert prompt.answer == f'["{first["key"]}", "{second["key"]}"]'


def test_a_section_of_a_kind_is_checked_at_its_place(fmt: NeedleFormat, tmp_path: Path) -> None:
    content = {name: value for name, value in fmt.model_dump(mode="json").items() if value is not None}
    path = tmp_path / "format.yaml"
    path.write_text(yaml.safe_dump({**content, "chain": {"answer": "{answers}"}}))
    with pytest.raises(ConfigError, match=r"chain.question: Field required"):
        load_format(path)
    path.write_text(yaml.safe_dump({**content, "chain": {"question": "{value}", "qestion": ""}}))
    with pytest.raises(ConfigError, match=r"unknown key 'chain.qestion'"):
        load_format(path)
