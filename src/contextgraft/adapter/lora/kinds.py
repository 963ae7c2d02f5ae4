"""The kinds of PEFT adapters that can be merged.

Another kind (LoHa, VeRA, ...) is a module like `files.weights` with its config and entries, and a row here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contextgraft.adapter.lora.config import LoraConfig
from contextgraft.adapter.lora.entries import AdapterEntry
from contextgraft.adapter.lora.files.weights import lora_entries
from contextgraft.checkpoint.safetensors_header import TensorFile


@dataclass(frozen=True)
class AdapterKind:
    """The model of adapter_config.json, and the function from the weights file's header to entries.

    `entries(file, path, config)` returns an entry for each tensor that the adapter changes, by its name.
    """

    config: type[LoraConfig]
    entries: Callable[[TensorFile, Path, Any], dict[str, AdapterEntry]]


KINDS = {"LORA": AdapterKind(LoraConfig, lora_entries)}  # by peft_type
