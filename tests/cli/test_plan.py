"""`contextgraft plan` as typed: figures for people and programs, one line for a mistake."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from contextgraft.cli.commands.plan import command
from contextgraft.cli.main import main
from contextgraft.cli.options import SuiteChoice
from contextgraft.cli.output import format_number, format_si
from contextgraft.evaluation.suites import SUITES


def plan(*words: object) -> str:
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_million_tokens_for_people() -> None:
    text = plan("llama3-70b", "--lengths", "1048576", "--distractors", "4", "--rank", "16", "--rank", "64")
    lines = text.splitlines()
    assert lines[0] == "model    llama3-70b: 70,553,706,496 parameters, 80 layers"
    assert lines[1].endswith("keys and values 327,680 bytes a token")
    assert lines[3] == "models   6"
    assert ["1,048,576", "320.0", "GiB", "451.4", "GiB", "7"] in [line.split() for line in lines]
    assert "--distractors" not in text
    assert "With --distractors 4 or more one text serves all 5 depths." in plan("llama3-8b")


def test_the_same_for_programs() -> None:
    words = ["llama3-8b", "--lengths", "1048576", "--samples", "10", "--distractors", "4", "--json"]
    facts = json.loads(plan(*words, "--device-flops", "400e12", "--utilisation", "1", "--suite", "needle"))
    assert facts["model"]["kv_bytes_per_token"] == 131072
    assert facts["memory"] == [
        {"length": 2**20, "kv_bytes": 2**37, "bytes": 2**37 + 16_060_522_496, "gpus": 3}
    ]
    (costs,) = facts["costs"]
    assert costs["prompts"] == 4 * 5 * 10
    assert costs["hours_alone"] == pytest.approx(200 * 762.68 / 3600, rel=1e-4)
    assert costs["hours_shared"] < 0.5 * costs["hours_alone"]
    assert facts["grid"]["one_text"] is True


def test_a_suite_named_twice_is_planned_once() -> None:
    facts = json.loads(
        plan("llama3-8b", "--suite", "ruler", "--suite", "ruler", "--lengths", "4096", "--json")
    )
    assert [row["suite"] for row in facts["costs"]] == ["ruler"]


def test_the_subcommand_may_be_left_out() -> None:
    assert plan("evaluation", "llama3-8b", "--samples", 3) == plan("llama3-8b", "--samples", 3)
    assert plan("--samples", 3, "llama3-8b") == plan("llama3-8b", "--samples", 3)


def test_every_suite_can_be_planned() -> None:
    assert {*SuiteChoice(without="skill").choices, "skill"} == set(SUITES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such model; expected a folder, a config.json, or llama3-70b"),
        (["."], "no such file"),
        (["llama3-8b", "--lengths", "0"], "separated by commas, each 1 to 1,099,511,627,776; received '0'"),
        (["llama3-8b", "--lengths", str(2**41)], "1 to 1,099,511,627,776; received '2199023255552'"),
        (["llama3-8b", "--lengths", "1,1"], "expected each number once; received '1,1'"),
        (["llama3-8b", "--lengths", ""], "received ''"),
        (
            ["llama3-8b", "--depths", "0,nan"],
            "commas, each 0 to 100; received 'nan' in '0,nan'",
        ),
        (
            ["llama3-8b", "--device-flops", "nan"],
            "expected a number, more than 0, at most 1e+30; received 'nan'",
        ),
        (["llama3-8b", "--device-flops", "inf"], "at most 1e+30; received 'inf'"),
        (["llama3-8b", "--device-flops", "0"], "more than 0, at most 1e+30; received '0'"),
        (["llama3-8b", "--utilisation", "1.5"], "expected a number, more than 0, at most 1; received '1.5'"),
        (["llama3-8b", "--device-memory", "-1"], "received '-1'"),
        (["llama3-8b", "--suite", "poems"], "'poems' is not one of"),
        (["llama3-8b", "--rank", "0"], "expected a whole number, at least 1; received '0'"),
        ([], "Missing command"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["contextgraft", "plan", *words])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert said in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_si(989e12, "FLOP/s"), "989 TFLOP/s"),
        (format_si(3.35e12, "B/s"), "3.35 TB/s"),
        (format_si(999.6e15, "FLOP"), "1 EFLOP"),
        (format_si(2e34, "FLOP"), "20,000 QFLOP"),
        (format_si(0.5, "FLOP/s"), "0.5 FLOP/s"),
        (format_number(0), "0"),
        (format_number(7.92e-6), "<0.001"),
        (format_number(0.0251), "0.0251"),
        (format_number(12345.6, 4), "12,346"),
    ],
)
def test_numbers_for_people_have_no_exponents(text: str, expected: str) -> None:
    assert text == expected


def test_a_plan_has_no_exponents() -> None:
    text = plan("llama3-70b", "--suite", "perplexity", "--lengths", "16,1048576")
    assert "device   989 TFLOP/s of which 40% are reached, 3.35 TB/s, 80 GB" in text
    assert not re.search(r"\de[+-]?\d", text)
