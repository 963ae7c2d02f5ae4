"""docs/published.md: its studies are those of config/studies, its costs those that `plan study` computes."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from .plans import STUDIES, study_plan
from .tables import page, table

PAGE = page("published")
NAMES = ("llama3-70b-524k", "llama3-70b-1048k", "llama3-8b-1048k")
COSTS = {name: cells for name, *cells in table(PAGE, "", "70B, 524k", "70B, 1048k", "8B, 1048k")}
CONTEXTGRAFT = "backend: contextgraft"


def study(name: str) -> dict[str, Any]:
    """A study's keys."""
    read: dict[str, Any] = yaml.safe_load((STUDIES / f"{name}.yaml").read_text())
    return read


@cache
def by_mergekit(name: str, folder: Path) -> dict[str, Any]:
    """The same study with the other backend."""
    text = (STUDIES / f"{name}.yaml").read_text()
    assert CONTEXTGRAFT in text
    path = folder / f"{name}.yaml"
    path.write_text(text.replace(CONTEXTGRAFT, "backend: mergekit"))
    return study_plan(f"{name} by mergekit", path)


def size(count: float) -> str:
    """Bytes as the page writes them: whole GB, TB with one decimal."""
    gigabytes = count / 1e9
    return f"{gigabytes / 1000:.1f} TB" if gigabytes >= 500 else f"{gigabytes:.0f} GB"


def evaluate_hours(known: dict[str, Any]) -> str:
    step = known["steps"]["evaluate"]
    assert step["busy"] == 1
    return f"{step['request']['gpus']}, {step['seconds'] / 3600:.1f} h"


def fetched(known: dict[str, Any]) -> str:
    step = known["steps"]["fetch"]
    assert step["jobs"] == 5
    hours = f"{step['hours']:.2f}" if step["hours"] < 1 else f"{step['hours']:.1f}"
    return f"{step['read'] / 1e9:.0f} GB, {hours} h"


def extracted(known: dict[str, Any]) -> str:
    step = known["steps"]["extract"]
    assert (step["jobs"], step["request"]["mem_mb"]) == (1, 4000)
    return f"{step['seconds'] / 60:.1f} min"


ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "adapter of rank 32, bytes of tensors": lambda known: f"{known['adapters']['32']:,}",
    "fetch: five models": fetched,
    "extract: all ranks, one pass, 4 GB of memory": extracted,
    "merge and verify: one fine-tune keeps all grafts, the others the recommended one: 5 jobs (7 for 8B)": (
        lambda known: f"{known['steps']['merge']['hours']:.1f} h"
    ),
    "evaluate: GPUs and hours of a job (GPUs compute their layers in turn, in the time of one GPU)": (
        evaluate_hours
    ),
    "evaluate everything, with base and donor": lambda known: f"{known['gpu_hours']:,.0f} GPU h",
    "peak disk use, all grafts kept": lambda known: size(known["disk"]["all_kept"]),
    "peak disk use, one fine-tune keeps all grafts, the others the recommended one": (
        lambda known: size(known["disk"]["peak"])
    ),
    "peak disk use, no grafts kept": lambda known: size(known["disk"]["none_kept"]),
}
BY_MERGEKIT = "the same with mergekit, each rank"


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_costs(row: str) -> None:
    assert COSTS[row] == [ROWS[row](study_plan(name)) for name in NAMES]


def test_mergekit_takes_so_long_for_each_rank(tmp_path: Path) -> None:
    hours = [by_mergekit(name, tmp_path)["steps"]["extract"] for name in NAMES]
    ranks = [len(study(name)["ranks"]) for name in NAMES]
    assert COSTS[BY_MERGEKIT] == [
        f"{step['hours'] / count:.1f} h" for step, count in zip(hours, ranks, strict=True)
    ]


def test_no_row_of_the_costs_is_left_out() -> None:
    assert set(COSTS) == {*ROWS, BY_MERGEKIT}


def test_jobs_and_threads_of_the_costs() -> None:
    assert [study_plan(name)["steps"]["merge"]["jobs"] for name in NAMES] == [5, 5, 7]
    threads = [(study(name)["threads"]["extract"], study(name)["threads"]["merge"]) for name in NAMES]
    assert threads == [(32, 16), (32, 16), (16, 8)]
    assert "Extraction uses 32 threads (16 for 8B), merging 16 (8)." in PAGE
    speeds = (
        "nodes of 8 GPUs with 80 GB that reach 390 TFLOP/s each, 1 GB/s of disk a job,\n0.1 GB/s of network"
    )
    assert speeds in PAGE
    for name in NAMES:
        keys = ("gpus_per_node", "gpu_memory", "gpu_teraflops", "disk", "network")
        assert [study_plan(name)["cluster"][key] for key in keys] == [8, 80, 390, 1, 0.1]
        assert study_plan(name)["targets"] == study_plan(name)["disk"]["targets"] == 3


@pytest.mark.parametrize("row", table(PAGE, "study", "base", "donor", "theta, positions", "ranks"))
def test_a_study_of_the_published_adapters(row: list[str]) -> None:
    path, base, donor, promised, ranks = row
    keys = study(Path(path.strip("`")).stem)
    theta, positions = promised.split(", ")
    assert keys["base"].split("/")[1] == base
    assert keys["donor"]["source"].split("/")[1] == donor
    assert (keys["donor"]["theta"], keys["donor"]["max_positions"]) == (
        int(theta),
        int(positions.replace(",", "")),
    )
    assert keys["ranks"] == [int(rank) for rank in ranks.split(", ")]


def names_of(cell: str) -> list[str]:
    """`a-1`, `-2` stand for a-1 and a-2; a{1,2} for a1 and a2."""
    first, *more = [name.strip("` ") for name in cell.split(",")] if "`" in cell else [cell]
    stem = first.rpartition("-")[0]
    return [first, *(stem + name for name in more)]


@pytest.mark.parametrize("row", table(PAGE, "study", "base", "donor", "what it must have", "source"))
def test_a_study_of_a_recent_donor(row: list[str]) -> None:
    cell, base, donor, must, _ = row
    theta, positions = (re.search(pattern, must) for pattern in (r"theta (\d+)", r", ([\d,]+)$"))
    before, _, rest = donor.partition("{")
    middles, _, after = rest.partition("}")
    donors = [before + middle + after for middle in middles.split(",")] if rest else [donor]
    for name, expected in zip(names_of(cell), donors, strict=True):
        keys = study(name)
        assert keys["base"].split("/")[1] == base
        assert keys["donor"]["source"].removeprefix("hf:") == expected
        assert keys["donor"].get("theta") == (theta and int(theta[1]))
        assert keys["donor"].get("max_positions") == (positions and int(positions[1].replace(",", "")))
