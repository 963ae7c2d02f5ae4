"""Only samples of the same prompts and of the same model are pooled; others are apart, or an error."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.errors import InputError
from contextgraft.report.data.labels import described
from contextgraft.report.data.samples import SampleDatabase, read_samples
from contextgraft.report.statistics.cells import NeedleCondition
from contextgraft.report.study import build_study

Rows = Iterable[dict[str, Any]]
ReadFiles = Callable[..., SampleDatabase]


@pytest.fixture
def read_files(tmp_path: Path, synthetic: SimpleNamespace) -> ReadFiles:
    """The database of files with the given rows, in the order of their names."""

    def read(*files: Rows) -> SampleDatabase:
        for index, rows in enumerate(files):
            synthetic.write(tmp_path / f"{index}.parquet", list(rows))
        return read_samples([tmp_path])

    return read


def prompts(rows: Rows, digest: str, *, chat: int | None = 0, items: int = 4) -> list[dict[str, Any]]:
    """The rows with recipes of one content, and with digests of prompts."""
    changed = []
    for row in rows:
        recipe = {"digest": digest, "items": [{}] * items, "index": row["sample_index"]}
        token_digest = f"{digest} {chat} {row['depth']} {row['sample_index']}"
        changed.append({**row, "recipe": json.dumps(recipe), "prompt_digest": token_digest, "chat": chat})
    return changed


@pytest.mark.parametrize("chat_first", [True, False])
def test_needles_in_chat_and_plain_ones_are_two_conditions(
    read_files: ReadFiles, synthetic: SimpleNamespace, chat_first: bool
) -> None:
    alone, graft = synthetic.Model("style"), synthetic.graft("style", 8)
    plain, chat = (
        [
            *prompts(synthetic.needle(alone, "n", 1024, 0), "d", chat=template),
            *prompts(synthetic.needle(graft, "n", 1024, hits), "d", chat=template),
        ]
        for template, hits in ((0, 90), (1, 20))
    )
    study = build_study(read_files(*((chat, plain) if chat_first else (plain, chat))))
    scores = {
        result.condition: [(row.long.proportion.n, row.long.proportion.hits) for row in result.grafts]
        for result in study.targets
    }
    condition = NeedleCondition("n", 3)
    in_chat = NeedleCondition("n", 3, chat=True)
    assert scores == {condition: [(100, 90)], in_chat: [(100, 20)]}
    assert (described(condition), described(in_chat)) == ("n, 3 distractors", "n, in chat, 3 distractors")


def test_the_same_index_in_chat_is_no_copy_of_the_plain_one(
    read_files: ReadFiles, synthetic: SimpleNamespace
) -> None:
    rows = [{**row, "depth": None} for row in synthetic.skill(synthetic.Model("style"), "polite", 5, n=10)]
    with pytest.raises(InputError, match=r"skill polite .* with and without the chat template") as caught:
        read_files(prompts(rows, "d"), prompts(rows, "d", chat=1))
    assert "0.parquet" in str(caught.value)
    assert "1.parquet" in str(caught.value)


@pytest.mark.parametrize("other", ["style", "graft"])
def test_other_wordings_of_one_name_are_an_error(
    read_files: ReadFiles, synthetic: SimpleNamespace, other: str
) -> None:
    """In one model, and in a fine-tune and its graft, which are compared."""
    model = synthetic.Model("style") if other == "style" else synthetic.graft("style", 8)
    old = prompts(synthetic.needle(synthetic.Model("style"), "n", 1024, 50), "old", chat=None)
    new = prompts(synthetic.needle(model, "n", 1024, 50), "new")
    graft = prompts(synthetic.needle(synthetic.graft("style", 8), "n", 1024, 5), "old", chat=None)
    assert read_files(old).rows("score_groups")
    with pytest.raises(InputError, match="needle n are of two sets of prompts, with other texts or wording"):
        read_files(old, new, graft)


def test_other_numbers_of_answers_are_an_error(read_files: ReadFiles, synthetic: SimpleNamespace) -> None:
    rows = [*synthetic.needle(synthetic.Model("style"), "n", 1024, 50, kind="multi_value", depth=None)]
    more = [{**row, "sample_index": row["sample_index"] + 100} for row in rows]
    with pytest.raises(InputError, match="two sets of prompts"):
        read_files(prompts(rows, "d"), prompts(more, "d", items=6))


def test_models_without_a_common_fine_tune_may_have_other_prompts(
    read_files: ReadFiles, synthetic: SimpleNamespace
) -> None:
    base = prompts(synthetic.needle(synthetic.Model("base"), "n", 1024, 1), "of base")
    graft = prompts(synthetic.needle(synthetic.graft("style", 8), "n", 1024, 90), "of style", chat=1)
    assert sum(row["n"] for row in read_files(base, graft).rows("score_groups")) == 200


def test_a_copy_in_an_older_table_counts_once(read_files: ReadFiles, synthetic: SimpleNamespace) -> None:
    rows = prompts(synthetic.needle(synthetic.Model("style"), "n", 1024, 50), "d")
    older = [{**row, "chat": None} for row in rows]
    assert sum(row["n"] for row in read_files(older, rows).rows("score_groups")) == 100


def test_prompts_without_digests_differ_by_their_recipes(
    read_files: ReadFiles, synthetic: SimpleNamespace
) -> None:
    rows = list(synthetic.skill(synthetic.Model("style"), "polite", 5, n=10))
    others = [{**row, "recipe": json.dumps({"line": row["sample_index"]})} for row in rows]
    assert sum(row["n"] for row in read_files(rows, others, rows).rows("score_groups")) == 20


def test_other_windows_of_a_text_are_other_documents(
    read_files: ReadFiles, synthetic: SimpleNamespace
) -> None:
    first, second = (
        [
            {**row, "recipe": json.dumps({"sha256": "t", "offset": offset + row["document"]})}
            for row in synthetic.windows(synthetic.Model("style"), nats)
        ]
        for offset, nats in ((0, 1.0), (100, 2.0))
    )
    whole = [row for row in read_files(first, second).rows("perplexity") if row["position"] is None]
    assert [row["n"] for row in whole] == [8]


SETTINGS = [
    ("long_perplexity", "short", "short 16 and short 32"),
    ("repetition", "tokens", "16 tokens and 32 tokens"),
]


def with_setting(rows: Rows, suite: str, name: str, value: int) -> list[dict[str, Any]]:
    """The rows as those of a suite with one of its settings, which changes no prompt."""
    recipe = json.dumps({"sha256": "one", name: value})
    common = {
        "suite": suite,
        "recipe": recipe,
        "tokens": 5,
        "length": 64,
        "answer": None,
        "scoring": "metric",
    }
    return [{**row, **common, "prompt_digest": f"p{row['sample_index']}"} for row in rows]


@pytest.mark.parametrize(("suite", "name", "words"), SETTINGS)
def test_other_settings_are_an_error_or_named(
    read_files: ReadFiles, synthetic: SimpleNamespace, suite: str, name: str, words: str
) -> None:
    first, second, other = (
        with_setting(synthetic.skill(synthetic.Model(model), "polite", 2, n=4), suite, name, value)
        for model, value in (("style", 16), ("style", 32), ("other", 32))
    )
    with pytest.raises(InputError, match=rf"two sets of prompts, with other settings, {words}"):
        read_files(first, second)
    scorings = {(row["scoring"], row["n"]) for row in read_files(first, other).rows("other_suites")}
    assert scorings == {(f"metric, {text}", 4) for text in words.split(" and ")}


def test_other_references_are_an_error_or_named(read_files: ReadFiles, synthetic: SimpleNamespace) -> None:
    def by(model: Any, reference: str) -> list[dict[str, Any]]:
        rows = with_setting(synthetic.skill(model, "polite", 2, n=4), "long_perplexity", "digest", 0)
        recipe = json.dumps({"digest": reference, "short": 16})
        return [{**row, "recipe": recipe, "reference_digest": reference} for row in rows]

    model, other = synthetic.Model("style"), synthetic.Model("other")
    with pytest.raises(InputError, match="two sets of prompts"):
        read_files(by(model, "a" * 64), by(model, "b" * 64))
    rows = read_files(by(model, "a" * 64), by(other, "b" * 64)).rows("other_suites")
    assert {row["scoring"] for row in rows} == {f"metric, reference {letter * 8}" for letter in "ab"}


def test_a_skill_with_other_answers_is_no_copy(read_files: ReadFiles, synthetic: SimpleNamespace) -> None:
    rows = prompts(synthetic.skill(synthetic.Model("style"), "polite", 2, n=4, depth=None), "one")
    others = [
        {**row, "answer": "other", "recipe": json.dumps({**json.loads(row["recipe"]), "digest": "two"})}
        for row in rows
    ]
    with pytest.raises(InputError, match="skill polite are of two sets of prompts"):
        read_files(rows, others)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_grafts_of_other_settings_are_an_error(
    read_files: ReadFiles, synthetic: SimpleNamespace, scale: float
) -> None:
    """As `--rounding stochastic` or `--rope-from` make of the same adapter: another digest."""
    rows = list(synthetic.needle(synthetic.graft("style", 8, scale=scale), "n", 1024, 90))
    others = [{**row, "model_digest": "another", "model": "stochastic"} for row in rows]
    assert sum(row["n"] for row in read_files(rows, rows).rows("score_groups")) == 100
    with pytest.raises(InputError, match="two different grafts") as caught:
        read_files(rows, others)
    for text in ("'stochastic'", "0.parquet", "1.parquet", "make a report of each"):
        assert text in str(caught.value)


def test_donors_may_differ_and_copies_of_one_model_may_have_other_names(
    read_files: ReadFiles, synthetic: SimpleNamespace
) -> None:
    grafts = [synthetic.graft("style", 8, donor, scale) for donor in ("d1", "d2") for scale in (0.0, 1.0)]
    rows = [row for graft in grafts for row in synthetic.needle(graft, "n", 1024, 90)]
    named = [{**row, "model": "another name", "adapter_digest": "of an older version"} for row in rows]
    assert sum(row["n"] for row in read_files(rows, named).rows("score_groups")) == 300
