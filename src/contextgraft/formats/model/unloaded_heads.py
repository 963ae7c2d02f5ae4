"""Heads next to a language model that its class does not load: of training, of speculative decoding."""

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.formats.model.runtime_names import not_loaded
from contextgraft.formats.tensor_names import is_buffer, is_ignored_by_name


def unloaded_heads(model: ModelFolder, other: ModelFolder) -> set[str]:
    """Tensors that the other model lacks, outside of what both have, and that the class of the model drops.

    Both have the same names. Empty where transformers is missing or has no class for the model.
    """
    shared = {name.partition(".")[0] for name in model.tensors.keys() & other.tensors.keys()}
    alone = {
        info.name: name
        for name, info in model.tensors.items()
        if name not in other.tensors
        and name.partition(".")[0] not in shared
        and not (is_ignored_by_name(name) or is_buffer(info))
    }
    return {alone[stored] for stored in not_loaded(model.config, alone)} if shared else set()
