"""Patterns of an adapter's config: PEFT's own values, within a time limit."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from contextgraft.adapter.lora.config import LoraConfig
from contextgraft.adapter.lora.module_patterns import ModulePatterns
from contextgraft.adapter.patterns import is_pattern
from contextgraft.errors import CheckpointError

PIECES = (
    "layers", "q_proj", r"\.", ".", ".*", ".+?", "[0-9]+", r"\d{1,2}", r"\d{,2}", "(self_attn|mlp)",
    "(?:1|11)",
    "(?!.*vision)", "(?=.*q)", "[^.]*", "(?i:Q_PROJ)", "(a)?", "x", "$", "^", r"\b", r"\w*", r"(?P<n>1)",
    r"\1",
    "[kqv]_proj", "(?<=1)", "(?>1*)", "1*+", "{", "}", "{e}", "{i<=1}", "|", "(", ")", "[[:alpha:]]", "*",
)  # fmt: skip
MODULES = (
    "model.layers.1.self_attn.q_proj", "model.layers.11.mlp.down_proj", "vision.layers.1.q_proj", "lm_head",
    "model.layers.0.self_attn.Q_PROJ", "q_projx", "layers11",
)  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join), min_size=1, max_size=3)
)
def test_what_is_accepted_means_the_same_to_peft(patterns: list[str]) -> None:
    table = ModulePatterns("rank_pattern", dict.fromkeys(patterns, 3), Path("adapter_config.json"))
    try:
        table.check()
    except CheckpointError:
        return
    for module in MODULES:
        matches = get_pattern_key(patterns, module) in patterns and module not in patterns
        matches |= any(re.match(rf"(.*\.)?({pattern})$", module) for pattern in patterns)
        assert table.value(module, 0) == 3 * matches


@pytest.mark.parametrize(
    "pattern",
    [
        ".*" * 20 + "x", ".*" * 60 + "x", "[a-z._0-9]*" * 15 + "Q", "(a|a)" * 30 + "x?" * 20 + "b",
        ".*?" * 60 + "x",
        r"(.*)\3" * 20, "(?=.*" * 20 + ")" * 20, "a?" * 60 + "a" * 60,
    ],
)  # fmt: skip
def test_no_pattern_hangs(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contextgraft.adapter.patterns.SECONDS", 0.2)
    table = ModulePatterns("alpha_pattern", {pattern: 2.0}, Path("adapter_config.json"))
    table.check()
    began = time.process_time()  # of this process: other work on the machine does not count
    names = [f"x.layers.{n}.self_attn.q_projQab." + "a" * 200 for n in range(50)]
    try:
        for name in names:
            table.value(name, 0.0)
    except CheckpointError as error:
        assert "adapter_config.json: has a alpha_pattern that takes too long" in str(error)  # noqa: PT017
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "pattern", ["a" * 201, "(a*)*x", "(", "q{e}", "q{i<=1}", "[[:alpha:]]", "(?V1)q", r"\p{L}", "[", "a{2,1}"]
)
def test_what_is_refused(pattern: str) -> None:
    with pytest.raises(CheckpointError, match="rank_pattern that is not used as a pattern"):
        ModulePatterns("rank_pattern", {pattern: 2}, Path("adapter_config.json")).check()


@pytest.mark.parametrize("pattern", ["a{1000000000}", "(a{200}b){200}", "a{9999}{9999}"])
def test_counts_that_compile_without_end_are_refused(pattern: str) -> None:
    with pytest.raises(CheckpointError, match="rank_pattern that is not used as a pattern"):
        ModulePatterns("rank_pattern", {pattern: 2}, Path("adapter_config.json")).check()
    assert not is_pattern(pattern)


NAMES = (
    "q",
    "a.q",
    "a.b.q",
    r"a\.q",
    "axq",
    ".q",
    "",
    ".",
    "a-q",
    r"\d.q",
    "[ab].q",
    "b.q|q",
    "q_",
    "...",
    "Q",
)
PIECES_OF_NAMES = st.lists(
    st.sampled_from(["a", "b", "q", ".", "a.", "x", "1.", "-", "q_", "\n", "Q"]), max_size=6
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(NAMES), unique=True, max_size=6), PIECES_OF_NAMES.map("".join))
def test_tables_of_names_are_read_as_peft_reads_them(patterns: list[str], module: str) -> None:
    values = {pattern: number for number, pattern in enumerate(patterns)}
    table = ModulePatterns("rank_pattern", values, Path("adapter_config.json"))
    table.check()
    assert table.value(module, 99) == values.get(get_pattern_key(patterns, module), 99)


def test_tables_of_50_000_names() -> None:
    names = {f"layers.{number}.mlp.experts.{number % 256}.up_proj": number for number in range(50_000)}
    table = ModulePatterns("rank_pattern", names, Path("adapter_config.json"))
    table.check()
    began = time.process_time()
    for number in range(0, 50_000, 10):
        assert table.value(f"model.layers.{number}.mlp.experts.{number % 256}.up_proj", -1) == number
        assert table.value(f"model.layers.{number}.mlp.gate", -1) == -1
    assert time.process_time() - began < 10


def test_many_names_of_different_forms_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contextgraft.adapter.patterns.SECONDS", 0.05)
    dots = {"".join("." if number >> bit & 1 else "q" for bit in range(12)): 2 for number in range(4096)}
    table = ModulePatterns("rank_pattern", dots, Path("adapter_config.json"))
    table.check()
    with pytest.raises(CheckpointError, match="rank_pattern that takes too long to match"):
        [table.value("model." + "qx" * 6, 0) for _ in range(1000)]


@pytest.mark.parametrize("pattern", [r"q\{}", r"q\{,}", r"q\{}{3}"])
def test_braces_without_a_count_repeat_nothing(pattern: str) -> None:
    assert is_pattern(pattern)


def test_many_patterns() -> None:
    names = {f"layers.{number}.q_proj": 2 for number in range(2000)}
    table = ModulePatterns("rank_pattern", names, Path("adapter_config.json"))
    table.check()
    assert [table.value(f"model.layers.{number}.q_proj", 9) for number in (0, 1999, 2000)] == [2, 2, 9]
    patterns = {f"x{number}.*": 2 for number in range(2000)}
    with pytest.raises(CheckpointError, match=r"too long a rank_pattern; expected .*received 0 and 2,000"):
        ModulePatterns("rank_pattern", patterns, Path("adapter_config.json")).check()


def test_a_lookahead_of_real_adapters() -> None:
    table = ModulePatterns("rank_pattern", {r"(?!.*vision).*layers\.\d+\..*q_proj": 2}, Path("c"))
    table.check()
    assert [table.value(module, 9) for module in MODULES[:3]] == [
        2,
        9,
        2,
    ]  # as PEFT: `vision.` may be the prefix


@pytest.mark.parametrize(
    ("chosen", "ties"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, True),
        ({"target_modules": ["q_proj", "model.embed_tokens"]}, True),
        ({"target_modules": ["wte", "lm_head"]}, True),
        ({"target_modules": ["c_attn", "wte"]}, False),  # PEFT warns that nothing is tied
        ({"target_modules": r".*(q_proj|embed_tokens)"}, True),
        ({"target_modules": r".*(c_attn|wte)"}, False),
        ({"target_modules": r".*q_proj", "modules_to_save": ["lm_head"]}, True),
    ],
)
def test_peft_ties_embeddings_by_these_names_only(chosen: dict[str, Any], ties: bool) -> None:
    assert LoraConfig(ensure_weight_tying=True, **chosen).ties_embeddings is ties
    assert LoraConfig(ensure_weight_tying=False, **chosen).ties_embeddings is False
    assert LoraConfig(**chosen).ties_embeddings is None
