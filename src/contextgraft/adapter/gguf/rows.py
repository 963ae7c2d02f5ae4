"""The rows of weights as llama.cpp's converter stores them: what is done to lora_b, whose rows they are."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from contextgraft.adapter.gguf.llama_cpp import RowOrder, RowSelection
from contextgraft.formats.architecture import architecture
from contextgraft.formats.peft import module_of
from contextgraft.formats.tensor_names import rotary_heads
from contextgraft.rope.model_class import resolve
from contextgraft.rope.text_section import text_section

Config = Mapping[str, Any]
# Falcon-H1: by the end of a module's name, the config's multipliers of it
MULTIPLIERS = {
    "down_proj": (("mlp_multipliers", 1),),
    "gate_proj": (("mlp_multipliers", 0),),
    "k_proj": (("key_multiplier", None), ("attention_in_multiplier", None)),
    "q_proj": (("attention_in_multiplier", None),),
    "v_proj": (("attention_in_multiplier", None),),
    "o_proj": (("attention_out_multiplier", None),),
    "out_proj": (("ssm_out_multiplier", None),),
    "in_proj": (("ssm_in_multiplier", None),),
    "lm_head": (("lm_head_multiplier", None),),
    "embed_tokens": (("embedding_multiplier", None),),
}


def _as_stored(rows: torch.Tensor, tensor: str, config: Config) -> torch.Tensor:  # noqa: ARG001
    return rows


def _interleaved(rows: torch.Tensor, tensor: str, config: Config) -> torch.Tensor:
    heads = rotary_heads(tensor, architecture(config))
    return halves_to_interleaved(rows, heads) if heads else rows


def _separated(rows: torch.Tensor, tensor: str, config: Config) -> torch.Tensor:
    if not module_of(tensor).endswith(".query_key_value"):
        return rows
    sizes = architecture(config)
    heads = int(sizes["num_attention_heads"])
    return groups_to_separate(rows, heads, int(sizes["hidden_size"]) // heads)


def _multiplied(rows: torch.Tensor, tensor: str, config: Config) -> torch.Tensor:
    resolved = resolve(config)
    values = text_section(config) if resolved is None else resolved.values
    module = module_of(tensor).rpartition(".")[2]
    result = rows.double()
    for key, index in MULTIPLIERS.get(module, ()):
        result *= values[key] if index is None else values[key][index]
    if module == "in_proj":
        inner, states = values["mamba_d_ssm"], values["mamba_n_groups"] * values["mamba_d_state"]
        heads = len(rows) - 2 * inner - 2 * states
        lengths = torch.tensor([inner, inner, states, states, heads])
        factors = torch.tensor(values["ssm_multipliers"], dtype=torch.float64)
        result *= torch.repeat_interleave(factors, lengths)[:, None]
    return result.to(rows.dtype)


ORDERS = {
    RowOrder.AS_STORED: _as_stored,
    RowOrder.INTERLEAVED: _interleaved,
    RowOrder.SEPARATED: _separated,
    RowOrder.MULTIPLIED: _multiplied,
}


def groups_to_separate(rows: torch.Tensor, heads: int, width: int) -> torch.Tensor:
    """Rows of groups, each some heads of q, one of k and one of v, become those of all q, all k, all v.

    `width` is the number of rows of a head; the number of groups follows from that of rows.
    """
    groups = (rows.shape[0] // width - heads) // 2
    grouped = rows.reshape(groups, heads // groups + 2, width, *rows.shape[1:])
    kinds = grouped[:, :-2], grouped[:, -2], grouped[:, -1]
    return torch.cat([kind.reshape(-1, *rows.shape[1:]) for kind in kinds])


def halves_to_interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (i, i + d/2) of each head become pairs (2i, 2i+1), the order in which llama.cpp rotates them."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def selected(rows: torch.Tensor, selection: RowSelection) -> torch.Tensor:
    """Some of the rows, those of the last dimension but one."""
    return rows[..., SLICES[selection](rows.shape[-2]), :]


SLICES: Mapping[RowSelection, Callable[[int], slice]] = {
    RowSelection.ALL: lambda _: slice(None),
    RowSelection.FIRST_HALF: lambda count: slice(count // 2),
    RowSelection.SECOND_HALF: lambda count: slice(count // 2, None),
    RowSelection.EVEN: lambda _: slice(0, None, 2),
    RowSelection.ODD: lambda _: slice(1, None, 2),
}
