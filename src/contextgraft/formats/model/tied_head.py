"""Whether a model's output layer (lm_head) is its input embeddings, as transformers decides it on loading."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.tensor_bytes import byte_blocks
from contextgraft.formats.model.runtime_names import HEADED, has_no_head
from contextgraft.formats.tensor_names import input_embedding, output_embedding
from contextgraft.rope.model_class import class_value
from contextgraft.rope.text_section import replace_text_section, text_section

TIE = "tie_word_embeddings"
VOCABULARY = "vocab_size"
BLOCK = 1 << 20  # bytes


class HeadState(StrEnum):
    """The output layer of a model folder."""

    TIED = "tied"  # not stored: the input embeddings
    COPY = "copy"  # stored, and equal to the input embeddings, to which the config ties it
    UNTIED = "untied"  # a matrix of its own
    CONTRADICTED = "contradicted"  # tied by the config, stored with other values: transformers 5 unties it
    MISSING = "missing"  # neither stored nor tied: readers start it at random
    NONE = "none"  # the class has none, and none is stored: a classifier, a model without its head

    @property
    def is_tied(self) -> bool:
        """Whether a change of the input embeddings changes the output layer."""
        return self in (HeadState.TIED, HeadState.COPY)


def head_state(model: ModelFolder) -> HeadState:
    """The state of the output layer; where it is stored and the config ties it, both tensors are compared."""
    head, embedding = output_embedding(model.tensors), input_embedding(model.tensors)
    if head is None and has_no_head(class_name(model)):
        return HeadState.NONE
    if head is None:
        return HeadState.MISSING if lacks_head(model) else HeadState.TIED
    if embedding is None or not ties(model.config):
        return HeadState.UNTIED
    return HeadState.COPY if _same_bytes(model, head, embedding) else HeadState.CONTRADICTED


def follows_input(model: ModelFolder, state: HeadState) -> bool:
    """Whether the output layer is the input embeddings, or would be if the class of the model had one."""
    return state.is_tied or (state is HeadState.NONE and bool(ties(model.config)))


def lacks_head(model: ModelFolder) -> bool:
    """Whether the output layer is neither stored nor tied; no weight is read."""
    headed = str(class_name(model)).endswith(HEADED) and input_embedding(model.tensors) is not None
    return headed and output_embedding(model.tensors) is None and ties(model.config) is False


def class_name(model: ModelFolder) -> str | None:
    """The class that the config names; None if it names none."""
    classes = model.config.get("architectures") or [None]
    return None if classes[0] is None else str(classes[0])


def with_head(model: ModelFolder, name: str) -> ModelFolder:
    """The model with its input embeddings also under the name of an output layer that it does not store."""
    embedding = input_embedding(model.tensors)
    if embedding is None or name in model.tensors:
        return model
    tensors = {**model.tensors, name: model.tensors[embedding]}
    return replace(model, tensors={key: tensors[key] for key in sorted(tensors)})


def ties(config: Mapping[str, Any]) -> bool | None:
    """Whether transformers ties the output layer, by the config or the default of its class.

    A plain config that says so is taken at its word. Classes of several towers differ in which of their
    sections counts; the class of transformers decides. None without a statement and a class.
    """
    text = text_section(config)
    said = config.get(TIE)
    if text is not config or said is None:
        resolved = class_value(config, TIE, absent=False)
        sections = (config, text)
        stated = next((section[TIE] for section in sections if section.get(TIE) is not None), None)
        said = stated if resolved is None else resolved
    return None if said is None else bool(said)


def untie(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the output layer untied, in every section that says otherwise."""
    text = text_section(config)
    changed = replace_text_section(config, {**text, TIE: False}) if TIE in text else dict(config)
    return {**changed, TIE: False}


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """The config's number of tokens, of the text model or of the model; None if it does not say."""
    sections = (text_section(config), config)
    return next((section[VOCABULARY] for section in sections if section.get(VOCABULARY) is not None), None)


def with_vocabulary(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The config with another number of tokens, in every section that has one."""
    changed = replace_text_section(config, {**text_section(config), VOCABULARY: rows})
    return changed | ({VOCABULARY: rows} if VOCABULARY in changed else {})


def head_name(embedding: str) -> str:
    """The name of the output layer of a model whose input embeddings have this name."""
    if embedding.startswith("language_model.model."):
        return "language_model.lm_head.weight"
    if embedding.startswith("biogpt."):
        return "output_projection.weight"
    if embedding.endswith("embeddings.tok_embeddings.weight"):
        return "decoder.weight"
    return "embed_out.weight" if embedding.endswith("embed_in.weight") else "lm_head.weight"


def _same_bytes(model: ModelFolder, first: str, second: str) -> bool:
    left, right = model[first], model[second]
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    blocks = zip(byte_blocks(model, left, BLOCK), byte_blocks(model, right, BLOCK), strict=True)
    return all(one == other for one, other in blocks)
