"""What is carried, and at which rank: by number, by energy, by what a server takes, by name."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import SERVED_RANKS, RankSpec, TensorSelection
from contextgraft.errors import CheckpointError, InputError, MismatchError
from contextgraft.formats.tensor_names import TensorRole


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.floats(0.01, 1), st.integers(1, 40))
def test_a_rank_by_energy_is_the_smallest_that_reaches_it(
    values: list[float], energy: float, most: int
) -> None:
    squares, total = sorted(values, reverse=True), sum(values)
    rank = RankSpec(most, energy).rank_for(squares, total)
    assert 1 <= rank <= most
    if rank > 1:
        assert sum(squares[: rank - 1]) < energy * total
    assert rank == min(most, len(squares)) or sum(squares[:rank]) >= energy * total * (1 - 1e-12)


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (2, 8), (16, 16), (24, 32), (300, 320), (600, 600)])
def test_served_ranks_are_rounded_up(rank: int, served: int) -> None:
    spec = RankSpec(rank, steps=SERVED_RANKS)
    assert (spec.name, spec.rank_for([], 1.0)) == (f"r{served}", served)


def test_each_module_gets_the_rank_its_energy_needs(build: Callable[..., Any], tmp_path: Path) -> None:
    made = build(tmp_path)
    record = extract(open_pair(made.base, made.donor), [RankSpec(12, 0.9), RankSpec(4)], made.adapters)[
        "e0.9"
    ]
    config = json.loads((made.adapters / "e0.9" / "adapter_config.json").read_text())
    factors = load_file(made.adapters / "e0.9" / "adapter_model.safetensors")
    assert config["r"] == record["rank"] == max(module["rank"] for module in record["modules"].values())
    assert len({module["rank"] for module in record["modules"].values()}) > 1
    for name, module in record["modules"].items():
        assert module["energy"] >= 0.9
        assert config["rank_pattern"].get(name, config["r"]) == module["rank"]
        assert factors[f"base_model.model.{name}.lora_A.weight"].shape[0] == module["rank"]
    assert record["asked"] == {"rank": 12, "energy": 0.9}
    assert sorted(path.name for path in made.adapters.iterdir()) == ["e0.9", "r4"]


def test_names_choose(build: Callable[..., Any], tmp_path: Path) -> None:
    made = build(tmp_path)
    chosen = open_pair(made.base, made.donor, TensorSelection(include=r"layers\.1\.", exclude="mlp|norm"))
    record = extract(chosen, [RankSpec(2)], made.adapters)["r2"]
    assert {name.rpartition(".")[2] for name in record["modules"]} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert record["dense"] == {}
    assert "model.layers.0.mlp.up_proj.weight" in record["ignored"]
    with pytest.raises(InputError, match="that are selected"):
        open_pair(made.base, made.donor, TensorSelection(include="nothing"))


def tokenizer(folder: Path, tokens: list[str]) -> None:
    vocabulary = {token: row for row, token in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))


@pytest.fixture
def untied(toy: SimpleNamespace, tmp_path: Path) -> Callable[[list[str]], Any]:
    """A base of 50 tokens t0..t49 and a donor with these tokens; its embeddings moved by rank one."""

    def make(tokens: list[str]) -> Any:
        config = toy.config(tie_word_embeddings=False)
        base = toy.weights(config, dtype=torch.float32)
        base["lm_head.weight"] = base["model.embed_tokens.weight"].clone()
        rows = [int(token[1:]) if token.startswith("t") else 0 for token in tokens]
        donor = toy.moved(base, 1)
        step = torch.outer(torch.arange(1.0, 51), torch.ones(64)) * 0.01
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            donor[name] = (base[name] + step)[rows]
        toy.write(tmp_path / "base", base, config)
        toy.write(tmp_path / "donor", donor, config | {"vocab_size": len(tokens)})
        tokenizer(tmp_path / "base", [f"t{row}" for row in range(50)])
        tokenizer(tmp_path / "donor", tokens)
        return SimpleNamespace(base=tmp_path / "base", donor=tmp_path / "donor", step=step)

    return make


@pytest.mark.parametrize("kinds", [(TensorRole.OUTPUT,), (TensorRole.INPUT, TensorRole.OUTPUT)])
def test_embeddings_are_aligned_by_token(untied: Any, tmp_path: Path, kinds: tuple[TensorRole, ...]) -> None:
    made = untied([f"t{row}" for row in reversed(range(2, 50))] + ["new"])
    extract(
        open_pair(made.base, made.donor, TensorSelection(embeddings=kinds)), [RankSpec(1)], tmp_path / "out"
    )
    factors = load_file(tmp_path / "out" / "r1" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "out" / "r1" / "adapter_config.json").read_text())
    expected = made.step.clone()
    expected[:2] = 0  # tokens that the donor lacks
    head = "base_model.model.lm_head.lora_"
    torch.testing.assert_close(
        factors[f"{head}B.weight"] @ factors[f"{head}A.weight"], expected, rtol=1e-4, atol=1e-4
    )
    assert "lm_head" in config["target_modules"]
    table = "base_model.model.model.embed_tokens.lora_embedding_"
    assert (f"{table}A" in factors) == (TensorRole.INPUT in kinds)
    if TensorRole.INPUT in kinds:
        assert factors[f"{table}A"].shape == (1, 50)
        found = (factors[f"{table}B"] @ factors[f"{table}A"]).T
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "out" / "r1" / "tokenizer.json").exists()


def test_embeddings_without_tokenizers_need_equal_rows(untied: Any) -> None:
    made = untied([f"t{row}" for row in range(40)])
    (made.donor / "tokenizer.json").unlink()
    with pytest.raises(MismatchError, match=r"only by their tokens; expected tokenizer\.json"):
        open_pair(made.base, made.donor, TensorSelection(embeddings=(TensorRole.OUTPUT,)))


def test_tied_models_have_no_head_to_carry(build: Callable[..., Any], tmp_path: Path) -> None:
    made = build(tmp_path)
    with pytest.raises(InputError, match="no such embeddings"):
        open_pair(made.base, made.donor, TensorSelection(embeddings=(TensorRole.OUTPUT,)))


def test_what_cannot_be_factorised_may_be_left_out(toy: SimpleNamespace, tmp_path: Path) -> None:
    config = toy.config()
    fused = toy.weights(config) | {"model.layers.0.mlp.experts.gate": torch.ones(2, 3, 4)}
    paths = toy.write(tmp_path / "b", fused, config), toy.write(tmp_path / "d", toy.moved(fused, 1), config)
    with pytest.raises(
        CheckpointError, match=r"b/model.safetensors: tensor .*experts.gate' cannot be factorised"
    ):
        open_pair(*paths)
    assert len(open_pair(*paths, TensorSelection(exclude="experts")).factorised) == 14


def test_the_published_selection_has_its_size(tmp_path: Path) -> None:
    """Llama-3-70B, every linear weight and lm_head at rank 32: headers of true shapes over empty files."""
    for side in ("base", "donor"):
        hollow(tmp_path / side)
    chosen = open_pair(
        tmp_path / "base", tmp_path / "donor", TensorSelection(embeddings=(TensorRole.OUTPUT,))
    )
    assert len(chosen.factorised) == 80 * 7 + 1
    assert chosen.factor_bytes(32) == 837_107_712


def hollow(path: Path) -> None:
    """A model of 141 GB that takes no room: its shard is a hole."""
    config = {
        "model_type": "llama", "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672,
        "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 8192, "rope_theta": 500000.0,
    }  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**config, tie_word_embeddings=False))
    header: dict[str, Any] = {}
    end = 0
    for name, parameter in model.named_parameters():
        begin, end = end, end + 2 * parameter.numel()
        header[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
