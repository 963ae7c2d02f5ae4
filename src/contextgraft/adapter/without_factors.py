"""Modules that an adapter's config selects and its file has no factors of.

PEFT (0.21) gives them factors whose product is zero, or, where init_lora_weights is false, random ones.
"""

from collections.abc import Collection, Iterator, Mapping

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdapterEntry, ReplaceEntry
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import MismatchError, first_names
from contextgraft.formats.model.runtime_names import peft_names
from contextgraft.formats.peft import TIED_BY_PEFT, module_of
from contextgraft.formats.tensor_names import is_ignored_by_name


def targets_without_factors(adapter: Adapter) -> Iterator[str]:
    """The names in a list of target_modules that match no module with factors in the file."""
    config, modules = adapter.config, [f".{module_of(name)}" for name in adapter.entries]
    tied = TIED_BY_PEFT if config.ties_embeddings else ()
    targets = config.target_modules if isinstance(config.target_modules, list) else []
    for target in sorted(targets):
        if target not in tied and not any(module.endswith(f".{target}") for module in modules):
            yield target


def missing_factors(
    adapter: Adapter, entries: Mapping[str, AdapterEntry], model: ModelFolder
) -> Iterator[str]:
    """A warning of the modules of a model that get no factors; `entries` are by the model's names.

    Raises MismatchError where PEFT would give them random factors, and for a module of the model that
    modules_to_save name and the file lacks. Towers of other modalities are left out.
    """
    _check_saved_modules(adapter, model)
    missing = [
        name for name in _selected(adapter, model) if isinstance(entries.get(name), ReplaceEntry | None)
    ]
    if not missing:
        return
    names = first_names([module_of(name) for name in missing], 5)
    if not adapter.config.init_lora_weights:
        raise MismatchError(
            "lacks factors of modules that its config selects, which PEFT sets to random values "
            "(init_lora_weights false)", path=adapter.path, expected=f"factors of {names}", received="none",
            remedy="remove these modules from target_modules, or set init_lora_weights to true, so that they "
            "stay unchanged",
        )  # fmt: skip
    yield (
        f"{adapter.path}: its file has no factors of {len(missing)} modules of {model.path} that its config "
        f"selects; they stay unchanged, as by PEFT: {names}"
    )


def _check_saved_modules(adapter: Adapter, model: ModelFolder) -> None:
    """Raise MismatchError for a module that the config saves, the model has and the file lacks.

    PEFT lists the usual names of a classifier's output (`classifier`, `score`), of which a model has one.
    """
    saved = {module_of(name) for name, entry in adapter.entries.items() if entry.replaces}
    modules = {module_of(name) for name in model.tensors}
    missing = [
        name
        for name in adapter.config.modules_to_save or ()
        if not _holds_some(name, saved) and _holds_some(name, modules)  # one that holds others saves those
    ]
    if missing:
        raise MismatchError(
            f"lacks modules that its config saves, and that {model.path} has: PEFT cannot load it",
            path=adapter.path, expected=", ".join(missing), received=", ".join(sorted(saved)) or "none",
            remedy="fetch it again, or remove them from modules_to_save if they were not trained",
        )  # fmt: skip


def _holds_some(name: str, modules: Collection[str]) -> bool:
    return any(f".{name}." in f".{module}." for module in modules)


def _selected(adapter: Adapter, model: ModelFolder) -> Iterator[str]:
    """The names of the model's weights that the config selects."""
    config = adapter.config
    matrices = [
        name
        for name, info in model.tensors.items()
        if len(info.shape) == 2 and name.endswith(".weight") and not is_ignored_by_name(name)
    ]
    whole = isinstance(config.target_modules, str) or any("." in name for name in config.target_modules or ())
    named = peft_names(model.config, matrices) if whole and adapter.sidecar is None else {}
    tied = TIED_BY_PEFT if config.ties_embeddings else ()
    for name in matrices:
        module = module_of(named.get(name, name))
        if module.rpartition(".")[2] not in tied and config.selection.has_factors(module):
            yield name
    for name in model.tensors:
        if any(f".{name}".endswith(f".{target}") for target in config.target_parameters or ()):
            yield name
