"""The GGUF adapter: read by the gguf package, it gives the same deltas, rows in llama.cpp's order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec, TensorSelection
from contextgraft.adapter.lora.gguf import halves_to_interleaved
from contextgraft.errors import InputError
from contextgraft.formats.tensor_names import TensorRole

NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
         "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}  # fmt: skip


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    reader = gguf.GGUFReader(path)
    tensors = {
        tensor.name: torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in reader.tensors
    }
    shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
    fields = {key: field.contents() for key, field in reader.fields.items()}
    return fields, {name: tensor.reshape(shapes[name]) for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_it_is_read_back_with_the_same_deltas(
    build: Callable[..., Any], tmp_path: Path, dtype: torch.dtype
) -> None:
    made = build(tmp_path, dtype=dtype)
    extract(open_pair(made.base, made.donor), [RankSpec(4)], made.adapters, gguf=True)
    fields, tensors = read(made.adapters / "r4" / "adapter.gguf")
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    assert fields["general.architecture"] == "llama"
    factors = load_file(made.adapters / "r4" / "adapter_model.safetensors")
    assert len(tensors) == len(factors)
    for key, factor in factors.items():
        _, _, _, _, layer, _, module, which, _ = key.split(".")
        found = tensors[f"blk.{layer}.{NAMES[module]}.weight.{which.lower()}"]
        heads = {"q_proj": 4, "k_proj": 2}.get(module)
        if heads and which == "lora_B":
            factor = halves_to_interleaved(factor, heads)  # noqa: PLW2901
        assert torch.equal(found, factor.float())


def test_the_order_of_rows_is_that_of_rotated_pairs() -> None:
    rows = torch.arange(8)[:, None]  # two heads of size four: halves (0, 1 | 2, 3)
    assert halves_to_interleaved(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_rows_of_an_embedding_are_tokens(build: Callable[..., Any], tmp_path: Path) -> None:
    made = build(tmp_path)
    for side in (made.base, made.donor):
        (side / "tokenizer.json").unlink()
    weights = load_file(made.donor / "model.safetensors")
    weights["model.embed_tokens.weight"] += 0.5
    save_file(weights, made.donor / "model.safetensors")
    extract(
        open_pair(made.base, made.donor, TensorSelection(embeddings=(TensorRole.INPUT,))),
        [RankSpec(2)],
        made.adapters,
        gguf=True,
    )
    _, tensors = read(made.adapters / "r2" / "adapter.gguf")
    lora_a, lora_b = (tensors[f"token_embd.weight.lora_{each}"] for each in "ab")
    assert (lora_a.shape, lora_b.shape) == ((50, 2), (64, 2))
    torch.testing.assert_close(lora_a @ lora_b.T, torch.full((50, 64), 0.5), rtol=0.05, atol=0.05)


def test_what_has_no_place_in_it_is_refused(build: Callable[..., Any], tmp_path: Path) -> None:
    made = build(tmp_path, model_type="gpt_neox")
    with pytest.raises(InputError, match="no GGUF adapter"):
        extract(open_pair(made.base, made.donor), [RankSpec(2)], made.adapters, gguf=True)
    assert not made.adapters.exists()
