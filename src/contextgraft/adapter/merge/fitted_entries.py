"""An adapter's entries under the names of a model, and which of them the model has already."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from contextgraft.adapter.experts.layout import with_experts_as_stored
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdapterEntry, ReplaceEntry
from contextgraft.adapter.lora.low_rank import LowRankEntry, RebasedEntry, StackedEntry
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import MismatchError
from contextgraft.formats.model.aligned_names import corresponding_names
from contextgraft.formats.model.parameters import module_parameters
from contextgraft.formats.peft import module_of
from contextgraft.formats.tensor_names import stored_transposed

BASE_LAYER = ".base_layer."  # what PEFT stores of a layer under factors, in the names of keys


def fitted_entries(adapter: Adapter, model: ModelFolder) -> dict[str, AdapterEntry]:
    """The adapter's entries under the model's names, of layers that store their weights transposed, too."""
    known = corresponding_names(adapter.entries, model.tensors)
    named = {known.get(name, name): entry for name, entry in adapter.entries.items()}
    if adapter.config.target_parameters and not named.keys() <= model.tensors.keys():
        stored = {parameter.name: name for name, parameter in module_parameters(model).items()}
        named = {name if name in model.tensors else stored.get(name, name): e for name, e in named.items()}
    oriented = {name: _oriented(name, entry, model, adapter) for name, entry in named.items()}
    return dict(sorted(with_experts_as_stored(oriented, model).items()))


def _oriented(name: str, entry: AdapterEntry, model: ModelFolder, adapter: Adapter) -> AdapterEntry:
    """The entry for a weight that is stored as [in, out] (Conv1D); PEFT's own flag for it is not needed."""
    if not isinstance(entry, LowRankEntry) or not _inputs_first(name, entry, model, adapter):
        return entry
    if entry.magnitude is not None:
        raise MismatchError(
            f"stores {name!r} transposed (Conv1D), to which DoRA cannot be added", path=model.path,
            expected="an adapter without use_dora", remedy="merge it with PEFT (merge_and_unload)",
        )  # fmt: skip
    return replace(entry, embedding=True, shape=(*entry.shape[:-2], entry.shape[-1], entry.shape[-2]))


def _inputs_first(name: str, entry: LowRankEntry, model: ModelFolder, adapter: Adapter) -> bool:
    """Whether the model stores a weight as [in, out]; of square experts, its class in transformers knows."""
    if not isinstance(entry, StackedEntry):
        return stored_transposed(name, model.config)
    if name not in model.tensors or entry.shape[1] != entry.shape[2]:
        return name in model.tensors and model[name].shape != entry.shape
    parameter = module_parameters(model).get(model[name].name)
    if parameter is None:
        raise MismatchError(
            f"stores square matrices of experts in {name!r}, as [in, out] or as [out, in]", path=model.path,
            expected="a class of transformers that says which", received=model.config.get("model_type"),
            remedy="install transformers (the extra train)",
        )  # fmt: skip
    if not parameter.inputs_first and adapter.sidecar is None and adapter.config.experts_inputs_first:
        raise MismatchError(
            f"changes square matrices of experts, {name!r}, and was saved by PEFT before 0.19, which took "
            "them for [in, out]; later versions take them for [out, in]", path=adapter.path,
            expected="peft_version 0.19 or later", received=f"{adapter.config.peft_version}",
            remedy="merge it with the version of PEFT that trained it (merge_and_unload)",
        )  # fmt: skip
    return parameter.inputs_first


def is_own_bias(adapter: Adapter, name: str, entry: AdapterEntry, view: ModelFolder) -> bool:
    """Whether an entry is the bias next to a weight under factors, and the target has the same."""
    if not isinstance(entry, ReplaceEntry) or BASE_LAYER not in entry.key:
        return False
    return name in view.tensors and _has_already(view, name, entry, adapter, entry.key)


def without_own_base(adapter: Adapter, name: str, entry: AdapterEntry, view: ModelFolder) -> AdapterEntry:
    """Only the factors of an entry whose weight the target has already, in the target's precision."""
    if not isinstance(entry, RebasedEntry) or not _has_already(view, name, entry, adapter, entry.base_key):
        return entry
    return entry.factors


def without_own_ends(
    adapter: Adapter, entries: Mapping[str, AdapterEntry], ends: Iterable[str], view: ModelFolder
) -> Mapping[str, AdapterEntry]:
    """The entries without weights for ends of tied embeddings that the target has already.

    PEFT stores the weight under factors of one end, which both share.
    """
    own = [name for name in ends if _is_own_end(adapter, name, entries.get(name), view)]
    return {name: entry for name, entry in entries.items() if name not in own}


def _is_own_end(adapter: Adapter, name: str, entry: AdapterEntry | None, view: ModelFolder) -> bool:
    if not isinstance(entry, ReplaceEntry) or adapter.config.selection.is_saved(module_of(name)):
        return False
    return _has_already(view, name, entry, adapter, entry.key)


def _has_already(view: ModelFolder, name: str, entry: AdapterEntry, adapter: Adapter, key: str) -> bool:
    """Whether the target's tensor is that which the adapter stores under a key for an entry."""
    if entry.shape != view[name].shape:
        return False
    from contextgraft.adapter.merge.kernels.same_weight import is_same_weight  # noqa: PLC0415 - torch, if needed

    return is_same_weight(adapter, key, view, name)
