"""Published minutes of Gradient's models against arithmetic: where 33 times faster can come from.

Minutes, GPUs and rings are the model cards' (an earlier revision of each says how many rings there were).
What a GPU can do is of NVIDIA's data sheet for the L40S; the link between nodes is assumed: no card has it.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from contextgraft.config.training import load_recipe
from contextgraft.planning.hardware import Hardware
from contextgraft.planning.shapes.model_shape import read_model_shape
from contextgraft.planning.training import ParallelPlan, StageCost, stage_costs

ROOT = Path(__file__).parents[1]
L40S = 362e12  # operations a second in bfloat16, dense
NODES = Hardware(flops=L40S, memory=48e9, node_size=8, link_bandwidth=12.5e9)
RANKS = 512
RINGS = {"8b": (8, 32, 64, 64), "70b": (8, 32, 64, 128)}  # GPUs of one sequence, by stage


def report(_: argparse.Namespace | None = None) -> dict[str, Any]:
    """Speeds by stage; what 33 compares; what each way to lay out 512 GPUs costs on the link."""
    return {"stages": {size: _stages(size) for size in RINGS}, "33x": _claimed(), "512 GPUs": _layouts()}


def _cost(size: str, stage: int, hardware: Hardware, ranks: int, context: int) -> StageCost:
    recipe = load_recipe(ROOT / f"config/recipes/llama3-{size}-gradient-1048k.yaml")
    shape = read_model_shape(f"llama3-{size}")
    alone = recipe.model_copy(update={"stages": (recipe.stages[stage],)})
    return stage_costs(alone, shape, hardware, ParallelPlan(ranks, context, rows=1))[0]


def _stages(size: str) -> list[dict[str, float]]:
    """Tokens a minute of wall time and of a GPU, and the share of a GPU's best that they mean."""
    recipe = load_recipe(ROOT / f"config/recipes/llama3-{size}-gradient-1048k.yaml")
    rows = []
    for number, stage in enumerate(recipe.stages):
        assert stage.published is not None
        gpus, minutes = stage.published.gpus, stage.published.minutes
        cost = _cost(size, number, NODES, gpus, RINGS[size][number])
        seconds = gpus * minutes * 60
        rows.append(
            {
                "length": stage.length,
                "gpus": gpus,
                "tokens a minute": cost.tokens / minutes,
                "tokens a GPU minute": cost.tokens / minutes / gpus,
                "of best": cost.flops / seconds / L40S,
                "of best with recomputing": cost.computed / seconds / L40S,
            }
        )
    return rows


def _claimed() -> dict[str, float]:
    """The 8B card compares its last two stages with its first two."""
    rows = _stages("8b")

    def mean(some: list[dict[str, float]], name: str) -> float:
        return sum(row[name] for row in some) / len(some)

    wall, gpu = "tokens a minute", "tokens a GPU minute"
    work = "of best"
    return {
        "last two stages / first two, tokens a minute": mean(rows[2:], wall) / mean(rows[:2], wall),
        "GPUs": mean(rows[2:], "gpus") / mean(rows[:2], "gpus"),
        "tokens a GPU minute": mean(rows[2:], gpu) / mean(rows[:2], gpu),
        "524k / 262k, operations of a GPU": rows[2][work] / rows[1][work],
    }


def _layouts() -> list[dict[str, Any]]:
    """One step of the 8B at 524288 on 512 GPUs: rings of different sizes, on one link a node or eight."""
    rows = []
    for context in (512, 64, 8):
        for links in (1, 8):
            hardware = replace(NODES, links=links)
            cost = _cost("8b", 2, hardware, RANKS, context)
            computing = cost.device_hours(hardware) / RANKS / cost.steps * 3600
            for layout in ("flat", "double"):
                ring = cost.between[layout].link / hardware.link_bandwidth / cost.steps
                weights = cost.weights / links / hardware.link_bandwidth / cost.steps
                rows.append(
                    {
                        "GPUs a sequence": context,
                        "links a node": links,
                        "layout": layout,
                        "computing s": round(computing, 1),
                        "ring s": round(ring, 1),
                        "weights s": round(weights, 1),
                        "hidden s": round(max(computing, ring + weights), 1),
                        "in turn s": round(computing + ring + weights, 1),
                    }
                )
    return rows


if __name__ == "__main__":
    import json

    print(json.dumps(report(), indent=2))
