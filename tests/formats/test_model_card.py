"""What all model cards share: metadata the hub reads, text that is not markup, models by their repository."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from contextgraft.formats.hub_source import hub_repository
from contextgraft.formats.model_card.head import CardHead
from contextgraft.formats.model_card.licence import TERMS, card_metadata, name_fits, read_licence, terms_of
from contextgraft.formats.model_card.markdown import code_block, escape, inline_code, table
from contextgraft.formats.model_card.scores import CardScores, CardShare, reached_by_all


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


def model(name: str, **more: Any) -> dict[str, Any]:
    """The identity of a model on the hub."""
    return {"name": name, "digest": "0", "source": f"hf:owner/{name}", "revision": None, **more}


def metadata(head: CardHead) -> dict[str, Any]:
    """The metadata of a card, which the hub's client reads, too."""
    text = head.page([])
    assert isinstance(ModelCard(text).data, ModelCardData)
    return card_metadata(text)


def test_parents_that_are_not_on_the_hub_are_left_out() -> None:
    data = metadata(CardHead("x", "merge", ({"name": "own", "source": "folder"},)))
    assert sorted(data) == ["library_name", "pipeline_tag", "tags"]


def test_a_merge_names_target_base_and_donor_and_an_adapter_its_base() -> None:
    parents = (model("tune"), model("base", license={"license": "mit"}))
    data = metadata(CardHead("x", "merge", parents, model("donor")))
    assert data["base_model"] == ["owner/tune", "owner/base", "owner/donor"]
    assert (data["base_model_relation"], data["donor"]) == ("merge", "owner/donor")
    assert data["license"] == "mit"  # of the first parent that states one
    assert data["tags"] == ["contextgraft", "long-context", "merge"]
    data = metadata(CardHead("x", "adapter", parents[1:], model("donor")))
    assert (data["base_model"], data["donor"], data["library_name"]) == ("owner/base", "owner/donor", "peft")


@pytest.mark.parametrize("licence", TERMS)
def test_the_words_that_a_licence_demands_are_in_the_card(licence: str) -> None:
    base = model("base", license={"license": licence, "license_link": "https://x.org"})
    card = ModelCard(CardHead("Long context of donor", "adapter", (base,)).page(["text"]))
    terms = TERMS[licence]
    assert terms.notice in card.text
    assert (terms.display or "") in card.text
    title = card.text.strip().splitlines()[0].removeprefix("# ").replace("\\", "")
    assert name_fits(title, terms)
    assert card_metadata(str(card))["license_link"] == "https://x.org"


def test_a_name_begins_as_the_licence_demands_whatever_its_punctuation() -> None:
    terms = terms_of({"license": "other", "license_name": "llama3"})
    assert terms is not None
    assert [name_fits(name, terms) for name in ("Llama-3-8B-long", "llama3-x", "Long-Llama-3")] == [
        True,
        True,
        False,
    ]
    assert name_fits("anything", terms_of({"license": "apache-2.0"}))


def test_scores_become_the_hubs_evaluation_results() -> None:
    share = CardShare("95 % [89, 98], n=100", 100, 0.95, (0.89, 0.98))
    scores = CardScores("tune", "style, 3 distractors", 1024, (("graft", share, CardShare("–")),), 512)
    head = CardHead("x", "merge", (model("tune"),), scores=(scores,))
    data = ModelCard(head.page([])).data
    assert isinstance(data, ModelCardData)
    assert data.eval_results is not None
    [result] = data.eval_results
    assert (result.metric_value, result.metric_args) == (
        0.95,
        {"n": 100, "low": 0.89, "high": 0.98, "length": 1024},
    )
    assert metadata(head)["measured_context_length"] == 512
    nothing = CardScores("other", "", 1024, scores.rows)
    assert reached_by_all([scores, nothing]) is reached_by_all([]) is None


def test_text_from_files_is_not_markup() -> None:
    assert escape("a|b\n[c](d)") == "a\\|b \\[c\\]\\(d\\)"
    assert inline_code("a`b|c\n") == "`abc`"
    assert inline_code("") == ""
    assert table("| | model |", [("base", "`x`")]) == "| | model |\n|---|---|\n| base | `x` |"
    assert code_block("a\n```\nb\x1b", "sh") == "````sh\na\n```\nb\n````"


def test_a_card_without_metadata_states_no_licence(tmp_path: Path) -> None:
    assert card_metadata("# no metadata") == card_metadata("---\n[\n---\n") == {}
    assert read_licence(tmp_path / "none") == {}
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlicense_link: LICENSE\n---\n")
    assert read_licence(tmp_path / "README.md") == {"license": "mit"}
