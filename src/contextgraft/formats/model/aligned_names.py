"""A model's tensors under the names that another model has for them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.formats.tensor_names import comparable


def aligned(model: ModelFolder, names: Iterable[str]) -> ModelFolder:
    """The model with its tensors under `names`, another model's; each TensorInfo keeps the stored name."""
    known = corresponding_names(names, model.tensors)
    return with_names(model, {stored: name for name, stored in known.items()})


def with_names(model: ModelFolder, names: Mapping[str, str]) -> ModelFolder:
    """The model with its tensors under other names where given; each TensorInfo keeps the stored one."""
    if not names:
        return model
    tensors = {names.get(name, name): info for name, info in model.tensors.items()}
    return replace(model, tensors={name: tensors[name] for name in sorted(tensors)})


def corresponding_names(names: Iterable[str], stored: Iterable[str]) -> Mapping[str, str]:
    """For each of `names` that is not among `stored`, the stored name of the same tensor, where there is one.

    Names correspond when they are equal but for the prefixes of wrappers and of text towers; names of which
    several would be equal have no correspondence.
    """
    names, stored = set(names), set(stored)
    wanted, spare = names - stored, stored - names
    if not wanted or not spare:
        return {}
    by_rest = {comparable(name): name for name in spare}
    counts = Counter(comparable(name) for name in stored)
    requested = Counter(comparable(name) for name in names)
    return {
        name: by_rest[rest]
        for name in sorted(wanted)
        if (rest := comparable(name)) in by_rest and counts[rest] == requested[rest] == 1
    }
