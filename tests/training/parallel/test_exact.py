"""Against one process without parallelism: the output, the loss and every gradient."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from contextgraft.attention.kernels import check_dtype
from contextgraft.config.training import Recipe
from contextgraft.errors import InputError
from contextgraft.training.parallel.attention import check_supported

from ..conftest import RECIPE
from .conftest import Run

# layout, ranks a node
LAYOUTS = {
    2: [("flat", 2), ("flat", 1), ("double", 2), ("double", 1), ("usp", 2), ("usp", 1)],
    4: [("flat", 4), ("flat", 2), ("double", 2), ("usp", 2), ("usp", 4), ("double", 4)],
    8: [("flat", 8), ("double", 4), ("double", 2), ("usp", 2), ("usp", 4)],
}
# ranks, and the step through the list of cases: every third has each layout, recipe and dtype of the list
WORLDS = [(2, 3), *(pytest.param(world, 1, marks=pytest.mark.slow) for world in (2, 4, 8))]
# largest error of output and gradients; bfloat16 has 8 bits
BOUNDS = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.06}


def fits(layout: str, per_node: int, kv_heads: int) -> bool:
    return layout != "usp" or kv_heads % per_node == 0


@pytest.mark.parametrize(("world", "step"), WORLDS)
def test_attention_is_exact(ranks: Run, world: int, step: int) -> None:
    cases: list[dict[str, Any]] = [
        {
            "layout": layout,
            "per_node": per_node,
            "heads": 8,
            "kv_heads": kv_heads,
            "dtype": dtype,
            "kernel": kernel,
        }
        for layout, per_node in LAYOUTS[world]
        for kv_heads in (8, 2)
        for dtype, kernel in (
            ("float64", "cpu"),
            ("float64", "plain"),
            ("float32", "cpu"),
            ("bfloat16", "cpu"),
        )
        if fits(layout, per_node, kv_heads)
    ][::step]
    found = ranks(world, "attention", cases=cases)
    for number, case in enumerate(cases):
        for rank in range(world):
            errors = {name: found[rank][number][name] for name in ("out", "q", "k", "v")}
            assert max(errors.values()) < BOUNDS[case["dtype"]], (case, rank, errors)


@pytest.mark.slow
def test_torchs_own_ring_is_a_fair_baseline(ranks: Run) -> None:
    """Its sums are float32 whatever the inputs are; bfloat16 is rounded after every block it takes in."""
    cases: list[dict[str, Any]] = [
        {"layout": "torch", "per_node": 2, "heads": 8, "kv_heads": kv, "dtype": dtype, "kernel": "cpu"}
        for kv in (8, 2)
        for dtype in ("float32", "bfloat16")
    ]
    for rank in ranks(4, "attention", cases=cases):
        for case, errors in zip(cases, rank, strict=True):
            assert max(errors[name] for name in ("out", "q", "k", "v")) < BOUNDS[case["dtype"]], case


@pytest.mark.parametrize(("world", "step"), WORLDS)
def test_model_has_the_loss_and_every_gradient(ranks: Run, world: int, step: int) -> None:
    rope = {"rope_theta": 5e5, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    cases: list[dict[str, Any]] = [
        {"layout": layout, "per_node": per_node, "kv_heads": kv_heads, "dtype": dtype}
        for layout, per_node in LAYOUTS[world]
        for kv_heads in (4, 2)
        for dtype in ("float64", "float32")
        if fits(layout, per_node, kv_heads) and 4 % per_node == 0
    ][::step]
    cases += [
        {"layout": "double", "per_node": 2, "kv_heads": 2, "dtype": "float64", **more}
        for more in ({"checkpointing": True}, {"config": {"rope_parameters": rope}})
    ]
    found = ranks(world, "model", cases=cases)[0]
    bounds = {"float64": (1e-12, 1e-11), "float32": (2e-6, 1e-5)}
    for case, result in zip(cases, found, strict=True):
        loss, gradient = bounds[case["dtype"]]
        assert result["loss"] < loss, (case, result)
        assert result["gradient"] < gradient, (case, result)


# layout, ranks a node, ranks on a sequence, rows at once
PLACES: dict[int, list[tuple[str, int, int, int | None]]] = {
    2: [("flat", 2, 2, None), ("double", 1, 2, 1), ("usp", 2, 2, None), ("flat", 1, 1, 1)],
    4: [
        *(("flat", 4, 4, None), ("flat", 2, 4, 1), ("double", 2, 4, None), ("usp", 2, 4, 1)),
        *(("usp", 4, 4, None), ("double", 1, 2, 1), ("usp", 2, 2, None)),
    ],
    8: [
        *(("flat", 8, 8, None), ("double", 4, 8, 1), ("usp", 2, 8, None)),
        *(("usp", 4, 8, 1), ("double", 2, 4, 1)),
    ],
}
LORA = {"lora": {"rank": 4, "alpha": 8}}
# recipe; rows and tokens of a batch, some of which nothing divides: rows are repeated, tokens padded
MOVES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "full": ({}, (4, 96)),
    "lora": (LORA | {"trainable": ["linear"]}, (4, 96)),
    "lora, norms and embeddings": (LORA, (3, 89)),
    "frozen rows, recomputed": ({"frozen_rows": 5, "activation_checkpointing": True}, (3, 89)),
    "lora, recomputed": (
        LORA | {"trainable": ["linear", "norms"], "activation_checkpointing": True},
        (1, 75),
    ),
    "attention kept, MLPs in tiles": ({"activation_checkpointing": "selective", "mlp_tiles": 2}, (3, 89)),
    "lora, attention kept": (LORA | {"activation_checkpointing": "selective"}, (2, 96)),
    "all that is kept is offloaded": (
        {"activation_checkpointing": "selective", "activation_offloading": True},
        (3, 89),
    ),
    "MLPs in tiles, recomputed": ({"mlp_tiles": 3, "activation_checkpointing": True}, (3, 89)),
}
SKIPPING = {"recipe": {}, "shape": (3, 89), "target": 4096}  # position ids that skip


@pytest.fixture(
    scope="session", params=[pytest.param(4, marks=pytest.mark.slow, id="MHA"), pytest.param(2, id="GQA")]
)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A model of four heads in float32, embeddings tied or not, and how many KV heads it has."""
    folder, kv_heads = tmp_path_factory.mktemp("small"), request.param
    config = LlamaConfig(
        vocab_size=67, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=kv_heads, max_position_embeddings=32, tie_word_embeddings=kv_heads == 2,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder, kv_heads


@pytest.mark.parametrize(("world", "step"), WORLDS)
def test_the_engine_has_every_gradient_of_one_process(
    ranks: Run, small: tuple[Path, int], world: int, step: int
) -> None:
    """FSDP and the ring together, whole matrices and LoRA, ranks on one sequence or on several."""
    base, kv_heads = small
    cases = [
        {"recipe": recipe, "shape": shape, "layout": layout, "per_node": per_node}
        | {"context": context, "rows": rows}
        for recipe, shape in MOVES.values()
        for layout, per_node, context, rows in PLACES[world]
        if fits(layout, per_node, kv_heads)
    ][::step]
    cases += [
        SKIPPING | {"layout": layout, "per_node": per_node, "context": context, "rows": rows}
        for layout, per_node, context, rows in PLACES[world]
        if fits(layout, per_node, kv_heads)
    ][::step]
    found = ranks(world, "gradients", base=str(base), cases=cases)[0]
    head = kv_heads == 4  # is not tied to the embeddings
    linear, norms, embeddings = 3 * 7, 3 * 2 + 1, 1 + head
    factors = 2 * linear
    assert {result["tensors"] for result in found} == {
        linear + norms + embeddings,
        factors,
        factors + norms,
        factors + norms + embeddings,
    }
    for case, result in zip(cases, found, strict=True):
        assert result["counts"], (case, result)
        assert result["loss"] < 2e-6, (case, result)
        assert max(result["gradient"], result["norm"]) < 1e-5, (case, result)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_gradients_that_are_summed_once_are_those_of_one_process(
    ranks: Run, small: tuple[Path, int], dtype: str
) -> None:
    """Three rows in a pass each; three layers, and what is outside of them, are summed by one call each."""
    base, _ = small
    cases = [
        {"recipe": recipe, "shape": (3, 89), "layout": "flat", "per_node": 2, "context": 2, "rows": 1}
        | {"once": once, "dtype": dtype}
        for recipe in ({}, LORA, {"frozen_rows": 5, "activation_checkpointing": True})
        for once in (False, True)
    ]
    loss, gradient = {"float32": (2e-6, 1e-5), "bfloat16": (2e-3, 0.05)}[dtype]
    for case, result in zip(cases, ranks(2, "gradients", base=str(base), cases=cases)[0], strict=True):
        assert result["loss"] < loss, (case, result)
        assert max(result["gradient"], result["norm"]) < gradient, (case, result)
        assert result["sums_over_shards"] == (4 if case["once"] else 3 * 4), (case, result)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_attention_that_is_kept_is_neither_computed_nor_sent_again(
    ranks: Run, small: tuple[Path, int], world: int
) -> None:
    """Three layers; each rank has one call of the kernel for each block of keys and values."""
    base, kv_heads = small
    for layout, per_node, context, rows in PLACES[world]:
        if not fits(layout, per_node, kv_heads):
            continue
        place = {"layout": layout, "per_node": per_node, "context": context, "rows": rows, "shape": (2, 96)}
        cases = [
            place | {"recipe": {"activation_checkpointing": recompute}}
            for recompute in (False, True, "selective")
        ]
        plain, full, selective = ranks(world, "gradients", base=str(base), cases=cases)[0]
        ring = context // per_node if layout == "usp" else context
        passes = 2 // (world // context) // rows if rows else 1
        assert plain["calls"] == 3 * ring * passes
        assert full["calls"] == 2 * plain["calls"]
        assert selective["calls"] == plain["calls"]
        assert max(selective["gradient"], selective["norm"]) < 1e-5
        if ring == context > 1:  # usp also exchanges heads, once more when recomputing
            assert full["bytes"] * 3 == plain["bytes"] * 4
            assert selective["bytes"] == plain["bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_bfloat16_has_the_gradients_but_for_its_bits(ranks: Run, small: tuple[Path, int], world: int) -> None:
    base, kv_heads = small
    cases = [
        {"recipe": recipe, "shape": (4, 96), "layout": layout, "per_node": 2, "context": world, "rows": None}
        for recipe in ({}, LORA)
        for layout in ("flat", "double", "usp")
        if fits(layout, 2, kv_heads)
    ]
    for case, result in zip(
        cases,
        ranks(world, "gradients", base=str(base), cases=[case | {"dtype": "bfloat16"} for case in cases])[0],
        strict=True,
    ):
        assert result["loss"] < 2e-3, (case, result)
        assert result["gradient"] < 0.05, (case, result)


@pytest.mark.slow
def test_compiled_norms_and_mlps_have_the_gradients_of_those_that_are_not(
    ranks: Run, small: tuple[Path, int]
) -> None:
    """By the compiler itself, against one process without; it needs a C++ compiler."""
    base, _ = small
    kept = {"activation_checkpointing": "selective", "activation_offloading": True, "mlp_tiles": 2}
    cases = [
        {"recipe": {"compile": True} | more, "shape": (3, 89), "layout": "flat", "per_node": 2}
        | {"context": 2, "rows": None}
        for more in ({}, kept, LORA)
    ]
    for case, result in zip(cases, ranks(2, "gradients", base=str(base), cases=cases)[0], strict=True):
        assert result["loss"] < 2e-6, (case, result)
        assert max(result["gradient"], result["norm"]) < 1e-5, (case, result)


def test_what_would_be_silently_wrong_is_refused(ranks: Run) -> None:
    said = ranks(2, "refusals")[0]
    assert "received no peers" in said["no peers"]
    assert "not those of one sequence" in said["no positions"]
    assert "packed documents" in said["packed"]
    assert "a padding mask" in said["padding"] or "a mask" in said["padding"]
    assert "a sliding window that" in said["window"]
    assert "not those of one sequence" in said["other documents"]
    assert "not those of one sequence" in said["not increasing"]


@pytest.mark.slow
@pytest.mark.parametrize("kv_heads", [2, 8])
def test_bytes_between_nodes_are_what_the_formula_says(ranks: Run, kv_heads: int) -> None:
    """Busiest of P ranks on N nodes, W one pass of KV: 3 (P - 1) / P W flat, 3 (N - 1) / P W layered."""
    base = {"per_node": 2, "heads": 8, "kv_heads": kv_heads, "dtype": "float32", "kernel": "cpu"}
    cases = [{"layout": layout, **base} for layout in ("flat", "double", "usp")]
    found = ranks(4, "attention", cases=cases)
    whole = 2 * 2 * kv_heads * 96 * 16 * 4  # k and v, rows, heads, tokens, head size, bytes
    busiest = [max(found[rank][number]["between"] for rank in range(4)) for number in range(3)]
    assert busiest == [3 * 3 * whole // 4, 3 * whole // 4, 3 * whole // 4]
    assert busiest[0] == 3 * busiest[1]


def test_kernels_say_what_they_take() -> None:
    check_dtype("cpu", torch.float32)
    with pytest.raises(InputError, match=r"on cuda .*; expected --dtype bfloat16; received float32"):
        check_dtype("cuda", torch.float32)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"model_type": "llama4_text", "num_hidden_layers": 4}, "chunked_attention"),
        ({"model_type": "mimo_v2_flash"}, "values with another head size"),
        ({"model_type": "lfm2", "num_hidden_layers": 2, "full_attn_idxs": [1]}, "conv"),
        ({"model_type": "jamba", "num_hidden_layers": 8}, "linear_attention"),
        ({"model_type": "falcon_h1"}, "hybrid"),
        ({"model_type": "qwen3_next"}, "linear_attention"),
        ({"model_type": "llama", "attention_chunk_size": 8192}, "attention_chunk_size"),
    ],
)
def test_layers_that_the_ring_does_not_compute_are_refused(config: dict[str, Any], word: str) -> None:
    recipe = Recipe.model_validate(RECIPE)
    for kind in ("gemma2", "gemma3_text", "gpt_oss"):
        check_supported({"model_type": kind}, recipe, "flat", ["model.layers.0.self_attn.sinks"])
    with pytest.raises(InputError, match=f"not {word}"):
        check_supported(config, recipe, "flat")


def test_torchs_ring_takes_no_other_attention_than_plain_causal_one() -> None:
    recipe = Recipe.model_validate(RECIPE)
    apart = {"kind": "documents", "files": ["a.txt"], "mask": "block_causal"}
    check_supported({"model_type": "qwen2", "sliding_window": 8}, recipe, "torch")  # switched off by default
    wrong: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("sliding windows", {"model_type": "mistral"}, {}),  # 4,096 by default
        (r"soft caps \(attn_", {"model_type": "gemma2", "sliding_window": None}, {}),  # 50 by default
        ("mask: block_causal", {"model_type": "llama"}, {"data": [apart]}),
        (
            "activation_checkpointing: selective",
            {"model_type": "llama"},
            {"activation_checkpointing": "selective"},
        ),
    ]
    for word, config, changes in wrong:
        with pytest.raises(InputError, match=f"layout torch does not support {word}"):
            check_supported(config, Recipe.model_validate(RECIPE | changes), "torch")
    with pytest.raises(InputError, match="layout torch does not support attention sinks"):
        check_supported({"model_type": "llama"}, recipe, "torch", ["model.layers.0.self_attn.sinks"])
