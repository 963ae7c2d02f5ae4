"""docs/training.md: what is computed there is what plan, rope and bench/published.py compute."""

import json
import re
import statistics
from typing import Any

import pytest
from bench.published import report

from contextgraft.config.training import Recipe, load_recipe
from contextgraft.planning.hardware import Hardware
from contextgraft.planning.shapes.model_shape import read_model_shape
from contextgraft.planning.training import ParallelPlan, ring_traffic, stage_costs
from contextgraft.training.parallel.layout import Topology

from ..planning.shapes import shape_of
from .plans import plan
from .tables import ROOT, page, table

PAGE = page("training")
RECIPES = ROOT / "config/recipes"
GRADIENT = str(RECIPES / "llama3-8b-gradient-1048k.yaml")
FOUND = report()


def test_the_plan_that_is_shown() -> None:
    """Every line, without those between nodes of stages 1 and 2 and the notes below the tables."""
    (block,) = re.findall(r"```\n(llama3-8b-gradient-1048k: .*?)```", PAGE, re.DOTALL)
    (options,) = re.findall(r"The options were `(.*?)`", PAGE, re.DOTALL)
    printed = [
        line.rstrip()
        for line in plan("training", GRADIENT, "--base", "llama3-8b", *options.split()).splitlines()
    ]
    between = next(number for number, line in enumerate(printed) if "between nodes  " in line)
    last = printed.index("", between)
    left_out = [line for line in printed[between + 1 : last] if re.match(r" [12] ", line)]
    assert len(left_out) == 6
    assert block.splitlines() == [line for line in printed[:last] if line not in left_out]


@pytest.mark.parametrize("number", range(4))
def test_the_published_speeds_of_a_stage(number: int) -> None:
    titles = ("stage of the 8B", "GPUs", "tokens per minute", "tokens per GPU-minute")
    stage, *cells = table(PAGE, *titles)[number]
    found = FOUND["stages"]["8b"][number]
    assert stage == f"{found['length'] // 1000}K"
    assert cells == [
        str(found["gpus"]),
        f"{found['tokens a minute']:,.0f}",
        f"{found['tokens a GPU minute']:,.0f}",
        f"{100 * found['of best']:.1f} %",
    ]


def test_what_33_compares() -> None:
    stages, ratios = FOUND["stages"], FOUND["33x"]
    times, gpus, each, work = ratios.values()
    text = " ".join(PAGE.split())
    assert f"is {times:.1f} times the mean of the first two" in text
    assert f"The number of GPUs is {gpus:.1f} times larger" in text
    assert f"Each GPU processed {each:.2f} times as many tokens per minute" in text
    assert f"a GPU did {work:.1f} times as many per second at 524K as at 262K" in text
    last = stages["8b"][3]
    shares = [round(100 * last[key]) for key in ("of best", "of best with recomputing")]
    assert f"would need {shares[0]} % of an L40S's peak, {shares[1]} % with recomputed" in text
    other = ", ".join(f"{100 * stage['of best']:.0f}" for stage in stages["70b"])
    assert f"four stages need {other.replace(', 11', ' and 11')} %" in text


def same_layout(shown: list[str], found: dict[str, Any]) -> bool:
    gpus, links, layout = shown[:3]
    named = (found["GPUs a sequence"], found["links a node"])
    return named == (int(gpus), int(links)) and layout in ("any", found["layout"])


TITLES = ("GPUs a sequence", "links a node", "layout", "computing", "ring", "weights")


@pytest.mark.parametrize("row", table(PAGE, *TITLES), ids=lambda row: " ".join(row[:3]))
def test_the_seconds_of_a_layout(row: list[str]) -> None:
    matches = [found for found in FOUND["512 GPUs"] if same_layout(row, found)]
    assert matches
    for found in matches:
        seconds = [value for name, value in found.items() if name.endswith(" s")]  # to a tenth
        assert [int(text) for text in row[3:]] == pytest.approx(seconds, abs=0.551)


LINKS = {"a link for each rank": 2, "one link for both ranks of a node": 1}


@pytest.mark.parametrize("title", LINKS)
def test_bytes_on_the_busiest_link(title: str) -> None:
    """Keys and values of 8 heads x 64 at 4,096 positions twice, their gradients once, in float32."""
    passed = 3 * 2 * 4096 * 8 * 64 * 4 / 1e6
    for layout, _, counted, _ in table(PAGE, title):
        if layout != "torch's loops":
            sent = ring_traffic(layout, Topology(2, 2), passed, LINKS[title]).link
            assert counted == f"{sent:.1f}"


MEASURED = shape_of(
    {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 512, "intermediate_size": 1024,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 2048, "tie_word_embeddings": True,
    }
)  # fmt: skip


@pytest.mark.parametrize("row", table(PAGE, "tokens", "ranks"), ids=lambda row: " ".join(row[:2]))
def test_the_plan_exceeds_what_was_measured(row: list[str]) -> None:
    tokens, ranks, each, measured, planned, *_ = map(int, row)
    stages = [{"length": tokens, "steps": 1, "tokens": tokens}]
    recipe = Recipe.model_validate(
        {"name": "measured", "stages": stages, "theta": "keep", "data": [{"kind": "repeat", "first": 20}]}
        | {"optimiser": {"learning_rate": 1e-4}, "activation_checkpointing": True}
    )
    layout = ParallelPlan(ranks, context=ranks, rows=1, dtype="float32")
    (cost,) = stage_costs(recipe, MEASURED, Hardware(), layout)
    assert (each, planned) == (tokens // ranks, round(cost.memory.total / 2**20))
    assert planned > measured


VARIANTS: list[dict[str, Any]] = [
    {"activation_checkpointing": True, "mlp_tiles": 1, "activation_offloading": False},
    {"activation_checkpointing": True, "mlp_tiles": 16, "activation_offloading": False},
    {"activation_checkpointing": True, "mlp_tiles": 16, "activation_offloading": True},
    {"activation_checkpointing": "selective", "mlp_tiles": 16, "activation_offloading": True},
    {"activation_checkpointing": "selective", "mlp_tiles": 16, "activation_offloading": False},
]


def test_memory_of_8b_at_a_million_tokens() -> None:
    """The rows, of which tests/planning/test_training.py derives the memory by hand."""
    rows = table(PAGE, "recipe", "GiB a rank", "fits", "host memory of the node")
    recipe = load_recipe(RECIPES / "llama3-8b-1048k-one-node.yaml")
    last = recipe.model_copy(update={"stages": recipe.stages[-1:]})
    card = 80e9 / 2**30
    assert f"8 x 80 GB** ({card:.1f} GiB)" in PAGE
    for (_, gib, fits, host), changes in zip(rows, VARIANTS, strict=True):
        wanted = last.model_copy(update=changes)
        (cost,) = stage_costs(
            wanted, read_model_shape("llama3-8b"), Hardware(), ParallelPlan(8, context=8, rows=1)
        )
        need = cost.memory.total / 2**30
        assert gib == f"{need:.1f}"
        assert fits == (f"with {card - need:.0f} GiB to spare" if need < card else "no")
        assert host == (f"{8 * cost.host / 2**30:.0f} GiB" if cost.host else "")


def test_memory_of_70b_on_two_nodes() -> None:
    """Its first two rows are derived by hand in tests/planning/test_training.py."""
    recipe = load_recipe(RECIPES / "llama3-70b-262k-two-nodes.yaml")
    rows = table(PAGE, "moments", "`--context-parallel`", "GiB a rank", "fits", "host memory of a node")
    card, plans = 80e9 / 2**30, ((False, 8), (True, 8), (True, 16))
    for (*_, gib, fits, host), (offload, ranks) in zip(rows, plans, strict=True):
        optimiser = recipe.optimiser.model_copy(update={"offload": offload})
        wanted = recipe.model_copy(update={"optimiser": optimiser})
        parallel = ParallelPlan(16, context=ranks, rows=1)
        cost = stage_costs(wanted, read_model_shape("llama3-70b"), Hardware(), parallel)[-1]
        need = cost.memory.total / 2**30
        assert gib == f"{need:.1f}"
        assert fits == (f"with {card - need:.0f} GiB to spare" if need < card else "no")
        assert host == f"{8 * cost.host / 2**30:.0f} GiB"


def test_what_is_claimed_has_tests() -> None:
    for feature, *_, files in table(PAGE, "feature", "key or option"):
        named = re.findall(r"`([^`]+)`", files)
        assert named, feature
        assert [name for name in named if not (ROOT / "tests" / name).is_file()] == [], feature


def test_every_cell_about_another_project_has_a_source() -> None:
    projects = ("torchtitan", "axolotl with ringmaster", "EasyContext", "ring-flash-attention")
    (sources,) = re.findall(r"\nSources: (.*?)\n\n", PAGE, re.DOTALL)
    known = set(re.findall(r"\b([TAERD]\d) `", sources))
    cited: set[str] = set()
    for feature, _, *cells in table(PAGE, "", "here", *projects):
        for letter, cell in zip("TAERD", cells, strict=True):
            named = set(re.findall(r"\[(.*?)\]", cell))
            assert named or cell in ("?", ""), (feature, cell)
            assert {name[0] for name in named} <= {letter}, (feature, cell)
            cited |= named
    assert cited == known


BENCH = json.loads((ROOT / "docs/data/bench-training.json").read_text(encoding="utf-8"))


def spread(values: list[float], digits: int) -> str:
    middle, least, most = (f"{x:.{digits}f}" for x in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least} - {most})"


def test_a_step_against_a_bare_loop() -> None:
    shown = table(PAGE, "rows of tokens", "one process / bare, median (least - most)")
    assert shown == [
        [name.replace("x", "of"), *(spread(ratios, 3) for ratios in found["ratios"].values())]
        for name, found in BENCH["step"].items()
    ]


def test_the_speed_of_packing() -> None:
    shown = table(PAGE, "documents, tokens to tokens of a sequence", "median (least - most)")
    assert shown == [
        [name, spread([rate / 1e6 for rate in found["tokens a second"]], 2)]
        for name, found in BENCH["packing"].items()
    ]
