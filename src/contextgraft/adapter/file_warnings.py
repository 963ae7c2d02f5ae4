"""Where a merge and PEFT's from_pretrained treat an adapter's file otherwise than its content suggests."""

from collections.abc import Iterator

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.reader_limits import reader_limits
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import first_names
from contextgraft.formats.architecture import architecture
from contextgraft.formats.model.aligned_names import corresponding_names
from contextgraft.formats.model.runtime_names import peft_names, runtime_model

SHOWN = 5


def file_warnings(adapter: Adapter, target: ModelFolder) -> Iterator[str]:
    """A warning for factors and weights without effect, and for what PEFT ignores and the graft has."""
    if adapter.ignored:
        yield (
            f"{adapter.path}: its file has factors of modules that its config does not select; PEFT ignores "
            f"them, and so does the graft: {first_names(adapter.ignored, SHOWN)}"
        )
    if adapter.ignored_weights:
        yield (
            f"{adapter.path}: its file has weights that are no part of the modules that its config selects "
            f"or saves; PEFT does not load them, nor does the graft: "
            f"{first_names(adapter.ignored_weights, SHOWN)}"
        )
    if adapter.renamed:
        key, expected = next(iter(adapter.renamed.items()))
        yield (
            f"{adapter.path}: {len(adapter.renamed)} of its {len(adapter.files[0].tensors)} tensors have "
            f"names under which PEFT ignores them ({key!r} in place of {expected!r}); the graft has them all"
        )
    if adapter.sidecar is None:
        limits = reader_limits(architecture(target.config), adapter.factors)
        yield from (f"{adapter.path}: {limit}" for limit in limits)
    names = _names_of_another_class(adapter, target)
    if names:
        theirs, ours = next(iter(names.items()))
        yield (
            f"{adapter.path}: names modules as another class of the model does, of its text tower or without "
            f"its output layer ({theirs!r} in place of {ours!r}): PEFT ignores them where it opens "
            f"{target.path}; the graft has them all"
        )


def _names_of_another_class(adapter: Adapter, target: ModelFolder) -> dict[str, str]:
    """Tensors of the adapter that the target has under another name only, with PEFT's name of each.

    PEFT also loads the names that modules inside layers have in memory, which differ from those of files.
    """
    if adapter.sidecar is not None or all(name in target.tensors for name in adapter.entries):
        return {}
    names = peft_names(target.config, target.tensors)
    stored = corresponding_names(set(adapter.entries).difference(names.values()), target.tensors)
    model = runtime_model(target.config) if stored else None
    in_memory = model.shapes if model is not None else {}
    return {name: names[own] for name, own in stored.items() if name not in in_memory}
