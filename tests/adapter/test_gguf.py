"""The GGUF adapter: read by the gguf package, it gives the same deltas, rows in llama.cpp's order."""

import json
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
from contextgraft.adapter.gguf.rows import groups_to_separate, halves_to_interleaved
from contextgraft.adapter.gguf.write_gguf import write_gguf
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.checkpoint.model_folder import open_model
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
    assert fields["general.name"] == "donor on base, rank 4"
    assert fields["general.base_model.count"] == 1
    assert fields["general.base_model.0.name"] == "base"
    assert "general.base_model.0.repo_url" not in fields
    assert fields["llama.rope.freq_base"] == 40000.0
    assert fields["llama.rope.scaling.type"] == "none"
    assert fields["llama.context_length"] == 1024
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


def test_groups_of_heads_become_all_q_then_all_k_then_all_v() -> None:
    rows = torch.arange(12)[:, None]  # heads of one row; Falcon: two groups, each of two q, one k, one v
    grouped = groups_to_separate(rows[:8], 4, 1)
    assert grouped.flatten().tolist() == [0, 1, 4, 5, 2, 6, 3, 7]
    each = groups_to_separate(rows, 2, 2)  # GPT-NeoX: each of two heads has its own k and v
    assert each.flatten().tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    one = groups_to_separate(rows[:6], 4, 1)  # Falcon 7B: one k and v for all heads
    assert torch.equal(one, rows[:6])


def test_a_base_of_the_hub_is_named_with_its_address(build: Callable[..., Any], tmp_path: Path) -> None:
    made = build(tmp_path)
    extract(open_pair(made.base, made.donor), [RankSpec(4)], made.adapters)
    folder = made.adapters / "r4"
    path = folder / "adapter_config.json"
    changes = {"base_model_name_or_path": "owner/name", "revision": "abc"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    write_gguf(open_adapter(folder), open_model(made.base), tmp_path / "adapter.gguf")
    fields, _ = read(tmp_path / "adapter.gguf")
    assert fields["general.base_model.0.name"] == "name"
    assert fields["general.base_model.0.organization"] == "owner"
    assert fields["general.base_model.0.repo_url"] == "https://huggingface.co/owner/name"
    assert fields["general.base_model.0.version"] == "abc"


def test_embeddings_of_a_tied_base_are_refused(build: Callable[..., Any], tmp_path: Path) -> None:
    made = build(tmp_path)
    weights = load_file(made.donor / "model.safetensors")
    weights["model.embed_tokens.weight"] += 0.5
    save_file(weights, made.donor / "model.safetensors")
    for side in (made.base, made.donor):
        (side / "tokenizer.json").unlink()
    pair = open_pair(made.base, made.donor, TensorSelection(embeddings=(TensorRole.INPUT,)))
    with pytest.raises(InputError, match=r"llama\.cpp aborts"):
        extract(pair, [RankSpec(2)], made.adapters, gguf=True)
    assert not made.adapters.exists()


def test_rows_of_an_embedding_are_tokens(build: Callable[..., Any], tmp_path: Path) -> None:
    made = build(tmp_path, tie_word_embeddings=False)
    for side in (made.base, made.donor):
        (side / "tokenizer.json").unlink()
        weights = load_file(side / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, side / "model.safetensors")
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
    made = build(tmp_path, model_type="persimmon")
    with pytest.raises(InputError, match="no GGUF adapter"):
        extract(open_pair(made.base, made.donor), [RankSpec(2)], made.adapters, gguf=True)
    assert not made.adapters.exists()
