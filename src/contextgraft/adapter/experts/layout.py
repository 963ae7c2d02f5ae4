"""An adapter's experts for a model that stores them otherwise: stacked in one, one by one in the other."""

from collections.abc import Mapping

from contextgraft.adapter.experts.entries import ExpertBlock, ExpertBlocksEntry, ExpertEntry
from contextgraft.adapter.lora.entries import AdapterEntry
from contextgraft.adapter.lora.low_rank import LowRankEntry, StackedEntry
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.formats.model.aligned_names import corresponding_names
from contextgraft.formats.model.parameters import ExpertPart, expert_parts, module_parameters
from contextgraft.formats.model.runtime_names import RuntimeModel, runtime_model

EXPERTS = ".experts."


def with_experts_as_stored(
    entries: Mapping[str, AdapterEntry], model: ModelFolder
) -> Mapping[str, AdapterEntry]:
    """The entries with those of experts in the model's layout, as transformers converts one to the other.

    Entries for which it knows no conversion are returned as they are; the model then lacks their tensors.
    """
    absent = {name: entry for name, entry in entries.items() if name not in model.tensors and EXPERTS in name}
    runtime = runtime_model(model.config) if absent else None
    if runtime is None:
        return entries
    changed = _one_by_one(absent, model, runtime), _stacked(absent, model, runtime)
    replaced = {name for names, _ in changed for name in names}
    kept = {name: entry for name, entry in entries.items() if name not in replaced}
    return kept | changed[0][1] | changed[1][1]


Changed = tuple[
    set[str], dict[str, AdapterEntry]
]  # names of entries that are replaced, and what replaces them


def _one_by_one(entries: Mapping[str, AdapterEntry], model: ModelFolder, runtime: RuntimeModel) -> Changed:
    """Entries of stacks for the single experts that the model stores."""
    stacks = {name: entry for name, entry in entries.items() if isinstance(entry, StackedEntry)}
    if not stacks:
        return set(), {}
    by_parameter: dict[str, dict[str, ExpertPart]] = {}
    shapes = {name: info.shape for name, info in model.tensors.items()}
    for name, part in expert_parts(runtime, shapes).items():
        by_parameter.setdefault(part.parameter, {})[name] = part
    named = corresponding_names(stacks, by_parameter)
    replaced, made = set(), dict[str, AdapterEntry]()
    for name, entry in stacks.items():
        parameter = named.get(name, name)
        parts = by_parameter.get(parameter, {})
        swapped = parameter in runtime.owners and not runtime.owners[parameter].last_is_input
        shape = (entry.shape[0], *entry.shape[:0:-1]) if swapped else entry.shape
        if parts and all(part.shape == shape for part in parts.values()):
            replaced.add(name)
            made |= {
                stored: ExpertEntry(
                    model[stored].shape, entry.scaling, entry.key_A, entry.key_B, swapped, None,
                    entry.experts, part.expert, part.start,
                )
                for stored, part in parts.items()
            }  # fmt: skip
    return replaced, made


def _stacked(entries: Mapping[str, AdapterEntry], model: ModelFolder, runtime: RuntimeModel) -> Changed:
    """Entries of single experts for the stacks that the model stores."""
    single = {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, LowRankEntry) and len(entry.shape) == 2 and not entry.needs_model
    }
    parts = expert_parts(runtime, {name: entry.shape for name, entry in single.items()})
    stored = {parameter.name: name for name, parameter in module_parameters(model).items()} if parts else {}
    blocks: dict[str, list[ExpertBlock]] = {}
    for name, part in parts.items():
        target = stored.get(part.parameter, part.parameter)
        if target in model.tensors and model[target].shape == part.shape:
            blocks.setdefault(target, []).append(ExpertBlock(part.expert, part.start, single[name]))
    replaced = {name for name, part in parts.items() if stored.get(part.parameter, part.parameter) in blocks}
    return replaced, {
        name: ExpertBlocksEntry(model[name].shape, 1.0, tuple(items)) for name, items in blocks.items()
    }
