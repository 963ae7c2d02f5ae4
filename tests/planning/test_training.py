"""Costs against numbers computed by hand, and against what a run counts."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from contextgraft.cli.commands.plan import command as plan_command
from contextgraft.cli.commands.train import command
from contextgraft.config.training import Recipe, load_recipe
from contextgraft.errors import CheckpointError, InputError
from contextgraft.planning.hardware import Hardware
from contextgraft.planning.shapes.model_shape import ModelShape, read_model_shape
from contextgraft.planning.training import (
    NodeTraffic,
    ParallelPlan,
    StageCost,
    memory_remedies,
    ring_bytes,
    ring_traffic,
    stage_costs,
    weight_traffic,
)
from contextgraft.planning.training_memory import trained_parameters
from contextgraft.training.parallel.layout import Topology

from ..training.conftest import RECIPE
from .shapes import shape_of

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "src/contextgraft/planning/shapes"
TINY = shape_of(
    {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10, "tie_word_embeddings": True,
    }
)  # fmt: skip
FOUR = Hardware(flops=1e6, utilisation=0.5, memory=1e6, node_size=2, link_bandwidth=1e3, links=2)
ONE: dict[str, Any] = {"stages": [{"length": 16, "steps": 3, "tokens": 64}], "replay": {}}


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({**RECIPE, **ONE, **changes})


def four_ranks(recipe: Recipe, **options: Any) -> list[StageCost]:
    return stage_costs(recipe, TINY, FOUR, ParallelPlan(4, **options))


def test_tiny_by_hand() -> None:
    """2 x (8 x 4 x 6 + 3 x 8 x 16) = 1152 in matrices, 40 in norms, 80 in embeddings: 1272."""
    assert TINY.parameters == 1272
    assert sum(rows * columns for rows, columns in TINY.matrices.values()) == 1152
    (cost,) = four_ranks(recipe(), context=4, dtype="float32")
    assert (cost.steps, cost.tokens, cost.busy) == (3, 192, 1.0)
    sequence = 2 * 1272 * 16 + 2 * 2 * 8 * 16**2
    assert cost.flops == cost.computed == 3 * 4 * 3 * sequence == 1760256
    assert cost.device_hours(FOUR) == pytest.approx(1760256 / 5e5 / 3600)
    # once round: 2 x 16 x 2 layers x 4 numbers; keys and values twice, gradients once, 4 bytes: 3072 a row
    assert cost.layout == "double"
    assert cost.between == {"flat": NodeTraffic(27648, 27648), "double": NodeTraffic(18432, 9216)}
    assert cost.weights == 3 * 0.75 * 12 * 1272
    assert cost.link_hours(FOUR, "double") == (9216 + cost.weights / 2) / 1e3 / 3600
    assert vars(cost.memory) == {
        "weights": 1272,
        "gradients": 1272,
        "moments": 2544,
        "gathered": 4 * (2 * 592 + 88 + 592),
        # kept by a layer: 8 x (4 + 8) + 4 x (2 x 8 + 3 x 4), the same 8 x 12 in its MLP, and 4 x 4 x 16: 560;
        # the MLP's backward pass adds 8 x 6 + 4 x (2 x 16 + 4) = 192, more than attention with the ring
        "activations": 16 * (2 * 560 + 192),
        "logits": 16 * 16 * 10,
        "ring": 0,
    }
    assert cost.memory.total == sum(vars(cost.memory).values())


def test_replicas_rows_recomputing_and_factors() -> None:
    lora = recipe(activation_checkpointing=True, lora={"rank": 2, "alpha": 4}, trainable=["linear", "norms"])
    assert trained_parameters(lora, TINY) == 2 * 2 * (4 * 8 + 2 * 3 * 4 + 3 * 24) + 40
    (cost,) = four_ranks(lora, context=2, rows=1, dtype="bfloat16")
    sequence = 2 * 1272 * 16 + 2 * 2 * 8 * 16**2
    assert cost.flops == 12 * (3 * sequence - 2 * 1272 * 16)
    assert cost.computed == cost.flops + 12 * sequence
    kept, in_mlp = 2 * 8 * 8 + 2 * (2 * 8 + 3 * 4) + 2 * 4 * 16, 8 * 5 + 2 * (2 * 16 + 4)
    assert cost.memory.activations == 8 * (2 * 8 * 2 + kept + in_mlp)
    assert cost.weights == 3 * 2 * 0.75 * (2 * 2 * 1272 + 4 * trained_parameters(lora, TINY))
    assert cost.between["flat"] == NodeTraffic(0, 0)  # the two ranks of a sequence are on one node
    (uneven,) = four_ranks(recipe(stages=[{**ONE["stages"][0], "tokens": 48}]), context=2)
    assert uneven.busy == pytest.approx(3 / 4)


def test_selective_checkpointing_keeps_attention() -> None:
    """Output (8 wide) and log-sum-exp (2 heads) of 2 layers are kept, and neither computed nor sent again."""
    (full,), (selective,), (none,) = (
        four_ranks(recipe(activation_checkpointing=mode), context=4, dtype="bfloat16")
        for mode in (True, "selective", False)
    )
    assert selective.memory.activations - full.memory.activations == 16 * (8 * 2 + 2 * 2 * 4)
    assert selective.computed - none.computed == 12 * 2 * 1272 * 16
    assert full.computed - selective.computed == 12 * 2 * 2 * 8 * 16**2
    assert selective.between == none.between != full.between


@pytest.mark.parametrize(
    ("ranks", "replicas", "leaving"),
    [(16, 2, 0), (16, 1, 1), (24, 3, 0), (24, 4, 2), (12, 2, 1), (24, 2, 2), (32, 2, 1)],
)
def test_copies_that_do_not_fit_whole_nodes_are_gathered_between_them(
    ranks: int, replicas: int, leaving: int
) -> None:
    """On nodes of 8: of 24 ranks in copies of 6, two lie partly on the middle node."""
    hardware = Hardware(node_size=8)
    plan = ParallelPlan(ranks, context=1, dtype="bfloat16", weight_replicas=replicas)
    shards = ranks // replicas
    summed = 2 * (replicas - 1) / replicas * 4 * 1272 * min(1, 8 / shards)
    gathered = (shards - 1) / shards * (2 * 2 + 4) * 1272
    assert weight_traffic(recipe(), TINY, hardware, plan) == pytest.approx(summed + leaving * gathered)


def test_replicas_of_the_weights_only_sum_gradients_between_nodes() -> None:
    """HSDP: 3 passes; 2 replicas send and receive half of the gradients of 1272 parameters twice."""
    (node,) = four_ranks(recipe(), context=4, dtype="bfloat16", weight_replicas=2)
    assert (node.memory.weights, node.memory.gradients, node.memory.moments) == (2544, 2544, 5088)
    assert node.weights == 3 * 2 * 0.5 * 4 * 1272
    eight = ParallelPlan(8, context=8, dtype="bfloat16", weight_replicas=2)
    (larger,) = stage_costs(recipe(), TINY, FOUR, eight)  # a node has half of the four shards
    assert larger.weights == 3 * (0.75 * (2 * 2 + 4) * 1272 + 2 * 0.5 * 4 * 1272 / 2)
    with pytest.raises(InputError, match="expected a divisor of 4; received 3"):
        four_ranks(recipe(), context=4, weight_replicas=3)


def test_gradients_that_are_summed_once_are_whole_until_then() -> None:
    """Three steps of two passes each; in one pass there is nothing to keep."""
    in_passes, once, at_once = (
        four_ranks(recipe(), context=2, dtype="bfloat16", rows=rows, sync_gradients_once=whole)[0]
        for rows, whole in ((1, False), (1, True), (2, True))
    )
    assert in_passes.weights - once.weights == 3 * 2 * 0.75 * 4 * 1272 / 2
    assert (in_passes.memory.gradients, once.memory.gradients) == (4 * 1272 / 4, 4 * 1272)
    assert at_once.memory.gradients == 4 * 1272 / 4
    plan = ParallelPlan(4, context=4, sync_gradients_once=True)
    assert "no --sync-gradients-once" in memory_remedies(recipe(), plan)


def test_offloaded_activations_are_in_host_memory() -> None:
    """Of inputs of 2 layers (8 wide) one is on the device; of what attention keeps, nothing.

    What one layer keeps is on its way back.
    """
    kept_by_attention = 8 * 2 + 2 * 2 * 4
    for mode, in_host, returning in (
        (True, 8 * 2, 8 * 2),
        ("selective", 8 * 2 + kept_by_attention, 8 * 2 + 8 * 2 + 2 * 4),
    ):
        (kept,), (moved,) = (
            four_ranks(
                recipe(activation_checkpointing=mode, activation_offloading=offloaded),
                context=4,
                dtype="bfloat16",
            )
            for offloaded in (False, True)
        )
        assert (kept.host, moved.host) == (0, 16 * in_host)
        assert kept.memory.activations - moved.memory.activations == moved.host - 16 * returning


def test_moments_in_host_memory() -> None:
    """8 bytes for each of 1272 numbers, by four ranks; on the device those of 8 x 16 (factors: 2 x 16)."""
    plain = recipe()
    offload = {"optimiser": plain.optimiser.model_copy(update={"offload": True})}
    (kept,) = four_ranks(plain, context=4)
    (moved,) = four_ranks(plain.model_copy(update=offload), context=4)
    assert (kept.memory.moments, kept.host) == (2544, 0)
    assert (moved.memory.moments, moved.host) == (3 * 8 * 8 * 16 / 4, 2544)
    assert moved.memory.total == kept.memory.total - 2544 + 3 * 256
    lora = recipe(lora={"rank": 2, "alpha": 4}, trainable=["linear", "norms"]).model_copy(update=offload)
    (factors,) = four_ranks(lora, context=4)
    assert factors.memory.moments == 3 * 8 * 2 * 16 / 4
    assert factors.host == 2 * trained_parameters(lora, TINY)


def test_70b_at_262144_tokens_on_two_nodes_by_hand() -> None:
    """The shipped recipe on 16 ranks, 8 on a sequence of which each has 32,768 tokens, for Llama 3 70B."""
    gib, tokens = 2**30, 2**15
    wanted, shape = (
        load_recipe(ROOT / "config/recipes/llama3-70b-262k-two-nodes.yaml"),
        read_model_shape("llama3-70b"),
    )
    plan = ParallelPlan(16, context=8, rows=1)
    cost = stage_costs(wanted, shape, Hardware(), plan)[-1]
    parameters, embeddings = 70553706496, 2 * 128256 * 8192
    layer = 8192 * (2 * 8192 + 2 * 1024 + 3 * 28672) + 2 * 8192
    assert parameters == 80 * layer + embeddings + 8192
    state = 8 * parameters / 16  # weights and gradients in float32
    moments = 8 * (2 * 128256 + 28672) * 8192 / 16  # of embeddings, output weights and a matrix of an MLP
    gathered = 2 * (2 * layer + (embeddings + 8192) * 2)
    logits = 1024 * 16 * 128256 + 4 * 128256 * 8192
    attended = 8192 * (4 + 4) + 2 * (2 * 8192 + 3 * 1024)
    attention = 8192 * 6 + 8192 * (8 + 12) + 1024 * 4 * 6  # the peak, with the ring; MLPs are in tiles
    total = state + moments + gathered + logits + tokens * (2 * 8192 * 2 + attended + attention)
    assert cost.memory.total == pytest.approx(total, rel=1e-9)
    assert cost.host == 79 * 8192 * 2 * tokens + 8 * parameters / 16
    on_device = wanted.optimiser.model_copy(update={"offload": False})
    (*_, without) = stage_costs(wanted.model_copy(update={"optimiser": on_device}), shape, Hardware(), plan)
    (*_, whole) = stage_costs(wanted, shape, Hardware(), ParallelPlan(16, context=16, rows=1))
    costs = (without, cost, whole)
    assert [round(each.memory.total / gib, 1) for each in costs] == [94.0, 62.3, 56.5]
    assert [round(8 * each.host / gib) for each in costs] == [316, 579, 421]


def test_8b_at_a_million_tokens_on_one_node_by_hand() -> None:
    """131,072 tokens a rank: what every other key of the recipe gives, computed by hand for Llama 3 8B."""
    gib, tokens = 2**30, 2**17
    inputs = 32 * 4096 * 2 * tokens
    assert inputs == 32 * gib
    attention = (31 * 4096 * 2 + 32 * 32 * 4) * tokens
    shape = read_model_shape("llama3-8b")
    stages = [{"length": 2**20, "steps": 1, "tokens": 2**20}]
    known: dict[str, StageCost] = {}
    variants: dict[str, dict[str, Any]] = {
        "recomputed": {},
        "tiled": {"mlp_tiles": 16},
        "offloaded": {"mlp_tiles": 16, "activation_offloading": True},
        "selective": {"mlp_tiles": 16, "activation_checkpointing": "selective"},
        "both": {
            "mlp_tiles": 16, "activation_checkpointing": "selective", "activation_offloading": True,
        },
    }  # fmt: skip
    for name, changes in variants.items():
        wanted = recipe(**{"stages": stages, "activation_checkpointing": True} | changes)
        (known[name],) = stage_costs(wanted, shape, Hardware(), ParallelPlan(8, context=8, rows=1))
    parameters, embeddings = 8030261248, 2 * 128256 * 4096
    layer = 4096 * (2 * 4096 + 2 * 1024 + 3 * 14336) + 2 * 4096
    assert parameters == 32 * layer + embeddings + 4096
    state = 16 * parameters / 8  # weights, gradients and two moments in float32
    gathered = 2 * (2 * layer + (embeddings + 4096) * 2)
    logits = 1024 * 16 * 128256 + 4 * 128256 * 4096
    attended = 4096 * (4 + 4) + 2 * (2 * 4096 + 3 * 1024)
    in_attention, ring = 4096 * 6 + 4096 * (8 + 12), 1024 * 4 * 6
    largest = attended + in_attention + ring  # MLPs in tiles: attention is the peak
    total = state + gathered + logits + tokens * largest
    for name, held in (("tiled", inputs), ("offloaded", 2 * inputs / 32), ("selective", inputs + attention)):
        assert known[name].memory.total == pytest.approx(total + held, rel=1e-9), name
    assert known["offloaded"].host == inputs * 31 / 32
    assert known["both"].host == inputs * 31 / 32 + attention
    returning = (4096 * 2 + 32 * 4) * tokens  # of what attention keeps, in one layer
    assert known["both"].memory.total == known["offloaded"].memory.total + returning
    in_gib = {name: round(cost.memory.total / gib, 1) for name, cost in known.items()}
    assert in_gib == {
        "recomputed": 90.1, "tiled": 78.3, "offloaded": 48.3, "selective": 109.8, "both": 49.4,
    }  # fmt: skip


def test_logits_are_of_a_piece_and_the_outputs_gradient_is_summed() -> None:
    """Of 10 words 419,430 tokens are 2^22 entries, fewer than the 524,288 that each of four ranks holds."""
    long = {"stages": [{"length": 2**21, "steps": 1, "tokens": 2**21}]}
    for trainable, summed in ((["linear", "embeddings"], 4 * 10 * 8), (["linear"], 0)):
        (cost,) = four_ranks(recipe(**long, trainable=trainable), context=4)
        assert cost.memory.logits == 419430 * 16 * 10 + summed


def test_replay_is_counted_with_its_stage() -> None:
    replayed = recipe(replay={"share": 0.5, "lengths": [8], "tokens": 16})
    (cost,) = four_ranks(replayed, context=4)
    assert cost.tokens == 64 + 16 + 64


@pytest.mark.parametrize(
    ("nodes", "per_node", "links", "fewer"), [(2, 2, 2, 3), (2, 8, 1, 1.875), (2, 8, 8, 15), (64, 8, 8, 8.11)]
)
def test_layers_send_so_many_times_less_over_the_busiest_link(
    nodes: int, per_node: int, links: int, fewer: float
) -> None:
    flat, double = (
        ring_traffic(name, Topology(nodes, per_node), 1.0, links).link for name in ("flat", "double")
    )
    assert flat / double == pytest.approx(fewer, rel=1e-3)


@pytest.mark.slow
def test_bytes_between_nodes_are_those_that_ranks_count(ranks: Any) -> None:
    """Attention of one layer, 2 rows of 96 tokens, 4 KV heads of 16 numbers, forward and backward."""
    shape = ModelShape(
        "one layer", hidden=1, intermediate=1, heads=8, kv_heads=4, head_dim=16, vocabulary=1,
        windows=(None,), tensors={},
    )  # fmt: skip
    cases = [
        {"layout": name, "per_node": 2, "heads": 8, "kv_heads": 4, "dtype": dtype, "kernel": "cpu"}
        for name in ("flat", "double", "usp")
        for dtype in ("float32", "bfloat16")
    ]
    found = ranks(4, "attention", cases=cases)
    for number, case in enumerate(cases):
        size = {"float32": 4, "bfloat16": 2}[str(case["dtype"])]
        exchanged = 2 * ring_bytes(shape, 96, size, recompute=False)
        expected = ring_traffic(str(case["layout"]), Topology(2, 2), exchanged, links=2)
        sent = [found[rank][number]["between"] for rank in range(4)]
        assert sum(sent[:2]) == expected.node, case
        assert max(sent) == expected.link, case


def test_gradients_figures_against_what_was_published() -> None:
    """The 1048K stage of 70B: 6 P T + 6 layers d T^2 of 32 sequences, by 128 GPUs in 516 minutes."""
    folder = ROOT / "config/recipes"
    hardware = Hardware(flops=362e12, memory=48e9, link_bandwidth=12.5e9)
    large, small = (
        stage_costs(
            load_recipe(folder / f"llama3-{size}-gradient-1048k.yaml"),
            read_model_shape(f"llama3-{size}"),
            hardware,
            ParallelPlan(512, context=64, rows=1),
        )
        for size in ("70b", "8b")
    )
    length = 2**20
    by_hand = 32 * (6 * 70553706496 * length + 6 * 80 * 8192 * length**2)
    assert large[3].flops == pytest.approx(by_hand)
    assert [cost.published for cost in large] == pytest.approx([853.33, 1450.67, 2423.47, 1100.8], abs=0.01)
    reached = [
        [round(cost.flops / (cost.published or 1) / 3600 / 362e12, 3) for cost in model]
        for model in (large, small)
    ]
    assert reached == [[0.051, 0.081, 0.165, 0.106], [0.179, 0.066, 0.285, 0.757]]


OPTIONS = ["--plan", "--config", str(ROOT / "config/recipes/llama3-70b-gradient-1048k.yaml")]
LARGE = [*OPTIONS, "--base", str(SHAPES / "llama3-70b.json")]


def test_command_prints_tables_and_json() -> None:
    many = ["--ranks", "512", "--context-parallel", "64", "--dtype", "bfloat16", "--device-memory", "48e9"]
    shown = CliRunner().invoke(command, [*LARGE, *many], catch_exceptions=False)
    assert shown.exit_code == 0
    for words in ("published h", "usp (chosen)", "432,013,312", "A rank needs", "link busy h"):
        assert words in shown.output
    facts = json.loads(CliRunner().invoke(command, [*LARGE, *many, "--json"], catch_exceptions=False).output)
    assert facts["all"]["tokens"] == 432013312
    assert facts["stages"][0]["between"].keys() == {"flat", "double", "usp"}
    assert facts["division"]["context"] == 64


def test_the_default_dtype_is_that_of_gpus() -> None:
    stated, default = (
        CliRunner().invoke(command, [*LARGE, "--ranks", "8", *dtype, "--json"], catch_exceptions=False).output
        for dtype in (["--dtype", "bfloat16"], [])
    )
    assert stated == default
    assert json.loads(default)["division"]["size"] == 2


def test_advice_is_only_what_is_not_done() -> None:
    plain, saving = (
        recipe(
            activation_checkpointing=done,
            activation_offloading=done,
            mlp_tiles=8 if done else 1,
            optimiser=RECIPE["optimiser"] | {"offload": done},
        )
        for done in (False, True)
    )
    assert memory_remedies(plain, ParallelPlan(4, context=2))[:5] == [
        "activation_checkpointing",
        "--rows-at-once 1",
        "mlp_tiles in the recipe",
        "activation_offloading",
        "optimiser.offload in the recipe",
    ]
    assert memory_remedies(saving, ParallelPlan(4, context=4, rows=1)) == ["more ranks for a sequence"]
    shown = CliRunner().invoke(
        command, [*LARGE, "--ranks", "8", "--rows-at-once", "1"], catch_exceptions=False
    )
    (advice,) = [line for line in shown.output.splitlines() if "A rank needs" in line]
    assert "activation_checkpointing" not in advice
    assert "rows-at-once" not in advice


def test_plan_training_is_train_plan() -> None:
    many = ["--ranks", "16", "--dtype", "bfloat16", "--json"]
    ours = [LARGE[2], *LARGE[3:], *many]
    assert ours[0].endswith(".yaml")
    new = CliRunner().invoke(plan_command, ["training", *ours], catch_exceptions=False)
    old = CliRunner().invoke(command, [*LARGE, *many], catch_exceptions=False)
    assert new.exit_code == old.exit_code == 0
    assert new.output == old.output


def test_command_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a divisor of 8; received 3"):
        CliRunner().invoke(
            command, [*LARGE, "--ranks", "8", "--context-parallel", "3"], catch_exceptions=False
        )
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="does not describe a causal language model"):
        CliRunner().invoke(command, [*OPTIONS, "--base", str(tmp_path)], catch_exceptions=False)
    without = CliRunner().invoke(command, [*LARGE[1:], "--ranks", "8", "--out", str(tmp_path / "o")])
    assert "--ranks needs --plan" in without.output
    assert "Missing option '--out'" in CliRunner().invoke(command, LARGE[1:]).output
