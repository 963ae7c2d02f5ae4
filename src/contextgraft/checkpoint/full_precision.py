"""Whether the weights of a model or adapter are complete: not quantised, and not left out by ZeRO-3."""

import re
from collections.abc import Iterable
from pathlib import Path

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, QUANTISATION, ModelFolder, declared_method
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.errors import CheckpointError, NotFullPrecision

FLOATS = ("F32", "F16", "BF16")
UNPACKED = (*FLOATS, "F64", "BOOL")  # dtypes that matrices of unquantised models have
# tensors that only quantised models store, and the method that stores them
STORED_BY = {
    r"\.g_idx$": "gptq",
    r"\.(qweight|qzeros)$": "gptq or awq",
    r"\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB)$": "bitsandbytes",
    r"\.quant_state\.bitsandbytes__\w+$": "bitsandbytes",
    r"\.weight_scale_inv$": "fp8",
    r"\.(weight_packed|weight_shape|weight_zero_point|weight_global_scale)$": "compressed-tensors",
    r"\.(weight_scale|weight_scales|weight_scale_2|input_scale)$": "of a kind that stores scales",
    r"_blocks$": "mxfp4",
    r"\.W_q$": "hqq",
    r"\.weight\._(data|scale)$": "quanto",
    r"\._weight_(qdata|scale|zero_point)$": "torchao",
    r"\.(codebooks|codes)$": "aqlm",
}
FACTOR = re.compile(r"\.lora_[AB]\.(default\.)?weight$|\.lora_embedding_[AB]")
GATHER = (
    "save it again with its weights gathered: `zero_to_fp32.py` of the checkpoint, or "
    "stage3_gather_16bit_weights_on_model_save in DeepSpeed's configuration"
)


def quantisation(folder: ModelFolder) -> str | None:
    """How the layers are quantised: the config's method, else what tensors prove; None for full precision."""
    declared = declared_method(folder.config)
    if declared is not None:
        return declared
    evidence = _evidence(folder)
    return None if evidence is None else evidence[0]


def check_full_precision(folder: ModelFolder, needed_by: str) -> None:
    """Raise NotFullPrecision for a quantised model, CheckpointError for one whose tensors are empty.

    `needed_by` is what needs weights in floating point, for the message.
    """
    method, evidence = quantisation(folder), _evidence(folder)
    if method is None:
        check_unquantised(folder)
        return
    remedy = "use the model in its original precision"
    if evidence is None:
        remedy = "its weights are not: remove quantization_config from its config.json"
    elif method == "fp8":
        remedy += ", or dequantise it with `contextgraft fetch FOLDER --out DIR --dequantize`"
    raise NotFullPrecision(
        f"is quantised ({method})",
        path=folder.path,
        expected=f"weights of {', '.join(FLOATS)}, as {needed_by} needs",
        received="quantization_config" if evidence is None else evidence[1],
        remedy=remedy,
    )


def check_unquantised(folder: ModelFolder) -> None:
    """Raise CheckpointError for an unquantised model that does not load.

    Its tensors may be empty, or its quantization_config: transformers refuses it in any form but null.
    """
    check_gathered(folder.tensors.values(), folder.path)
    section = folder.config.get(QUANTISATION[0])
    if section is not None:
        raise CheckpointError(
            f"has a {QUANTISATION[0]} that transformers does not load", path=folder.path / MODEL_CONFIG,
            expected="an object with quant_method, or no such key", received=repr(section)[:80],
            remedy="remove it: the weights are not quantised",
        )  # fmt: skip


def check_gathered(tensors: Iterable[TensorInfo], path: Path) -> None:
    """Raise CheckpointError for weights of shape [0], which DeepSpeed's ZeRO-3 leaves on each rank.

    FSDP leaves factors of one dimension.
    """
    shards = [info for info in tensors if _is_shard(info)]
    if shards:
        raise CheckpointError(
            f"has tensors that are empty or flat, such as {shards[0].name[:200]!r}: it was saved from "
            "DeepSpeed ZeRO-3 or FSDP without its weights being gathered",
            path=path,
            received=f"shape {list(shards[0].shape)} in {len(shards)} tensors",
            remedy=GATHER,
        )


def _evidence(folder: ModelFolder) -> tuple[str, str] | None:
    """The method that tensors prove, and a tensor that proves it."""
    packed = next((info for info in folder.tensors.values() if is_packed(info)), None)
    for pattern, method in STORED_BY.items():
        name = next((name for name in folder.tensors if re.search(pattern, name)), None)
        if name is not None:
            shown = packed or folder[name]
            return method, f"{shown.dtype} in tensor {shown.name!r}"
    return None if packed is None else (packed.dtype, f"{packed.dtype} in tensor {packed.name!r}")


def is_packed(info: TensorInfo) -> bool:
    """Whether a tensor is a matrix of weights that no unquantised model stores so."""
    return info.name.endswith("weight") and len(info.shape) > 1 and info.dtype not in UNPACKED


def _is_shard(info: TensorInfo) -> bool:
    if FACTOR.search(info.name):
        return len(info.shape) == 1 or not info.numel
    return info.shape == (0,) and info.name.endswith(("weight", "lora_magnitude_vector"))
