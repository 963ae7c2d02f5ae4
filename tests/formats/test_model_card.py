"""What all model cards share: metadata the hub reads, text that is not markup, models by their repository."""

import pytest
import yaml

from contextgraft.formats.hub_source import hub_repository
from contextgraft.formats.model_card import escape, front_matter, inline_code, repository_or_name, table


@pytest.mark.parametrize(
    ("source", "repository"),
    [
        ("hf:owner/name", "owner/name"),
        ("hf:owner/name@refs/pr/1", "owner/name"),
        ("hf:datasets/owner/name@main", "owner/name"),
        ("owner/name", None),
        ("package:models/model.gguf", None),
        ("../owner/name", None),
        ("hf:owner", None),
        (None, None),
    ],
)
def test_only_a_source_on_the_hub_is_a_repository(source: str | None, repository: str | None) -> None:
    assert hub_repository(source) == repository
    assert repository_or_name({"name": "own", "source": source}) == (repository or "own")


def test_a_base_that_is_not_on_the_hub_is_left_out() -> None:
    front = front_matter(None, "merge", "peft")
    assert front.startswith("---\n")
    assert front.endswith("---\n")
    metadata = yaml.safe_load(front.strip("-\n"))
    assert sorted(metadata) == ["library_name", "pipeline_tag", "tags"]
    metadata = yaml.safe_load(front_matter("a/b", "merge", "peft", license="mit").strip("-\n"))
    assert (metadata["base_model"], metadata["base_model_relation"], metadata["license"]) == (
        "a/b",
        "merge",
        "mit",
    )


def test_text_from_files_is_not_markup() -> None:
    assert escape("a|b\n[c](d)") == "a\\|b \\[c\\]\\(d\\)"
    assert inline_code("a`b|c\n") == "`abc`"
    assert inline_code("") == ""
    assert table("| | model |", [("base", "`x`")]) == "| | model |\n|---|---|\n| base | `x` |"
