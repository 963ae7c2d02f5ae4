"""Loading one model folder for evaluation, and the number of positions its configuration allows."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from contextgraft.attention.chunks import use_block_attention
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.checkpoint.reader import stored_tensors
from contextgraft.errors import CheckpointError, InputError, MismatchError, library_errors, raise_read_error
from contextgraft.evaluation.backends.generation import cache_capabilities
from contextgraft.formats.model.own_files import check_plain_files
from contextgraft.formats.model.pretrained import (
    NO_REMOTE_CODE,
    OWN_FILES,
    check_no_adapter,
    use_built_in_kernels,
)
from contextgraft.rope.model_class import quiet_transformers

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": "auto"}


def find_device(name: str) -> torch.device:
    """The torch device of that name; InputError if this machine does not have it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            "no such device on this machine",
            received=name,
            remedy=f"pass --device cpu ({str(error).splitlines()[0][:80]})",
        ) from None
    return device


def keep_freed_memory() -> None:
    """Make the allocator of glibc reuse freed memory instead of returning it to the system.

    It returns blocks above a threshold, which grows to the largest block ever freed, at most 32 MB.
    Freeing one such block first saves an eighth of the demo models' time; other allocators ignore it.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def device_map(device: torch.device, count: int) -> Any:
    """Where the weights go: "cuda" without an index means all `count` GPUs, layer by layer, if several."""
    return "auto" if device.type == "cuda" and device.index is None and count > 1 else device


@quiet_transformers()
def load_model(path: Path, device: torch.device, dtype: str, tensors: Mapping[str, Any] | None = None) -> Any:
    """The causal language model of a folder; CheckpointError if a tensor of its config is missing.

    With `tensors`, they are its weights, by the names that they would have in the folder's files, and the
    folder has the other files only. `tensor[...]` reads one of them.
    """
    check_plain_files(path)
    check_no_adapter(path)
    with library_errors("cannot be loaded as a causal language model", path):
        config = use_built_in_kernels(AutoConfig.from_pretrained(str(path), **OWN_FILES))
        model, info = _from_pretrained(
            path,
            config,
            stored_tensors(open_model(path)) if tensors is None else tensors,
            dtype=DTYPES[dtype],
            output_loading_info=True,
            device_map=device_map(device, torch.cuda.device_count()),
        )
    wrong = sorted([*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])])
    if wrong:
        raise CheckpointError(
            "lacks tensors that its config requires", path=path, received=", ".join(wrong[:3])
        )
    model = try_model(model.eval(), path)
    with library_errors("cannot be run by transformers", path):
        if cache_capabilities(model.config).chunks:
            use_block_attention(model)
    return model


def _from_pretrained(path: Path, config: Any, tensors: Mapping[str, Any], **options: Any) -> Any:
    """As AutoModelForCausalLM.from_pretrained, with weights that need not be in the folder.

    The automatic class does not take them; the class that it chooses does.
    """
    with torch.device("meta"):
        chosen = type(AutoModelForCausalLM.from_config(config, **NO_REMOTE_CODE))
    own = config if isinstance(config, chosen.config_class) else config.get_text_config()
    settings = _generation_config(str(path))
    return chosen.from_pretrained(
        None, config=own, state_dict=tensors, generation_config=settings, **options, **OWN_FILES
    )


def _generation_config(path: str) -> Any:
    """The generation settings of a folder as transformers reads them; those of the model's without a file."""
    try:
        return GenerationConfig.from_pretrained(path, **OWN_FILES)
    except OSError as error:
        raise_read_error(error, path)
        model = {"config_file_name": "config.json", "_from_model_config": True}
        return GenerationConfig.from_pretrained(path, **model, **OWN_FILES)


@torch.inference_mode()
def try_model(model: Any, path: Path) -> Any:
    """The model, if it can read one token; CheckpointError if its config makes transformers fail.

    A RuntimeError of torch is not an error of the config alone: the prompts that cause it fail by themselves.
    """
    with library_errors("cannot be run by transformers", path), suppress(RuntimeError):
        output = model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device))
        if not hasattr(output, "logits"):
            raise TypeError("its outputs have no names: return_dict is false")
    return model


def load_config(path: Path) -> Any:
    """The configuration of a folder; CheckpointError if transformers cannot read it."""
    with library_errors("its config cannot be read", path):
        return AutoConfig.from_pretrained(str(path), **OWN_FILES)


def max_positions(config: Any) -> int | None:
    """Most tokens that a model of this configuration can read; None if its positions are rotary."""
    text = config.get_text_config()
    if getattr(text, "rope_parameters", None):
        return None
    limit: int | None = getattr(text, "max_position_embeddings", None)
    return limit


def check_vocabulary(model: Any, path: Path, largest: int) -> None:
    """Raise MismatchError if the model has no row for the largest token id of its prompts."""
    count = model.get_input_embeddings().num_embeddings
    if largest >= count:
        raise MismatchError(
            "the tokenizer has more tokens than the model has rows",
            path=path,
            expected=f"token ids below {count}",
            received=largest,
        )
