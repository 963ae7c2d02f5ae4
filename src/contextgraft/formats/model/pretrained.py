"""How transformers loads a model folder of others: its own files, none of its code, no kernel it names."""

from pathlib import Path
from typing import Any

from contextgraft.checkpoint.model_folder import ADAPTER_CONFIG
from contextgraft.errors import CheckpointError

# For every `from_pretrained`, `from_config` and `LLM` of this package. Without the first, transformers asks
# on standard input whether to run the folder's code; without the second, it may look for files on the hub.
NO_REMOTE_CODE = {"trust_remote_code": False}
OWN_FILES = {**NO_REMOTE_CODE, "local_files_only": True}
BUILT_IN_ATTENTION = frozenset({None, "eager", "sdpa"})
BUILT_IN_EXPERTS = frozenset({None, "eager", "batched_mm", "grouped_mm"})


def use_built_in_kernels(config: Any) -> Any:
    """The same configuration of transformers, without the attention and expert kernels that it names.

    Any other name than a built-in one is a repository on the hub, or a package, whose code would run;
    transformers then chooses as for a configuration that names none. The configuration is changed in place.
    """
    for section in _sections(config):
        if _name(section, "_attn_implementation") not in BUILT_IN_ATTENTION:
            section._attn_implementation = None
        if _name(section, "_experts_implementation") not in BUILT_IN_EXPERTS:
            section._experts_implementation = None
    return config


def check_no_adapter(folder: Path) -> None:
    """Raise CheckpointError for a model folder with an adapter in it, which transformers would apply."""
    if (folder / ADAPTER_CONFIG).exists():
        raise CheckpointError(
            f"holds a model and an adapter ({ADAPTER_CONFIG}), and transformers would load both", path=folder,
            remedy="move the adapter's files into a folder of their own; to evaluate both, merge them first",
        )  # fmt: skip


def _name(section: Any, key: str) -> Any:
    value = getattr(section, key, None)
    return value if isinstance(value, str | None) else ""


def _sections(config: Any) -> list[Any]:
    """The configuration and those inside it, at any depth."""
    inner = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return [config, *(section for each in inner if each is not None for section in _sections(each))]
