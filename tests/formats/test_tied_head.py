"""Whether a config ties its output layer: what transformers' classes resolve, in every form of config."""

from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from contextgraft.formats.model.tied_head import ties, untie

TIE = "tie_word_embeddings"
STATEMENTS = (None, True, False)
TYPES = (
    "llama", "gemma", "qwen2", "bloom", "gpt_neox", "cohere", "gemma3_text", "gemma3", "qwen2_vl",
    "qwen2_5_vl", "qwen3_vl", "qwen3_5", "llava", "llava_next", "llava_onevision", "mistral3",
    "internvl", "idefics3", "smolvlm", "paligemma", "glm4v", "aya_vision", "llama4", "lfm2_vl",
    "mllama",
)  # fmt: skip


def form(model_type: str, top: bool | None, text: bool | None) -> dict[str, Any]:
    """A config with statements at the top and in the section of the language model."""
    inner = CONFIG_MAPPING[model_type]().get_text_config(decoder=True).model_type
    config: dict[str, Any] = {"model_type": model_type}
    if inner != model_type:
        config["text_config"] = {"model_type": inner} | ({} if text is None else {TIE: text})
    return config | ({} if top is None else {TIE: top})


def resolved(config: dict[str, Any]) -> bool:
    """What PreTrainedModel asks its config when it ties weights."""
    built = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    return bool(getattr(built, TIE, False))


@pytest.mark.parametrize("top", STATEMENTS)
@pytest.mark.parametrize("text", STATEMENTS)
@pytest.mark.parametrize("model_type", TYPES)
def test_as_transformers_ties(model_type: str, top: bool | None, text: bool | None) -> None:
    config = form(model_type, top, text)
    assert ties(config) == resolved(config)
    untied = untie(config)
    assert not ties(untied)
    assert not resolved(untied)


def test_a_class_that_transformers_lacks() -> None:
    assert ties({"model_type": "unheard_of"}) is None
    assert ties({"model_type": "unheard_of", "text_config": {TIE: True}}) is True
    assert ties({"model_type": "unheard_of", TIE: False, "text_config": {TIE: True}}) is False
