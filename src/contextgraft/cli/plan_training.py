"""What `plan training` and `train` share: options of ranks and hardware, and the printed plan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from contextgraft.cli.option_types import COUNT, Choice, RealNumber, WholeNumber
from contextgraft.cli.options import combine
from contextgraft.cli.output import print_json

F = TypeVar("F", bound=Callable[..., Any])
MOST = 10**6
POSITIVE = RealNumber(0, 1e30, min_open=True)
SHARE = RealNumber(0, 1, min_open=True)
PLANNED_DTYPE = "bfloat16"  # that of a run on GPUs, which is what is planned
PLANNED_FLOPS = 989e12  # an H100's, as in planning.hardware
NAMES = ("ranks", "utilisation", "device_memory", "link", "links")


def device_options(*, hidden: bool = False) -> Callable[[F], F]:
    """--device-flops, --utilisation and --device-memory: what one device can do."""
    return combine(
        _measured_flops() if hidden else _planned_flops(),
        click.option(
            "--utilisation", type=SHARE, default=0.4, show_default=True, hidden=hidden,
            help="Share of the peak that is reached.",
        ),
        click.option(
            "--device-memory", type=POSITIVE, default=80e9, show_default="80e9", hidden=hidden,
            help="Bytes of one device.",
        ),
    )  # fmt: skip


def _planned_flops() -> Callable[[F], F]:
    return click.option(
        "--device-flops", type=POSITIVE, default=PLANNED_FLOPS, show_default="989e12",
        help="Peak operations per second of one device; the default is an H100's in bfloat16.",
    )  # fmt: skip


def _measured_flops() -> Callable[[F], F]:
    """The peak of which a run reports its share; a plan by `train --plan` takes it as well."""
    return click.option(
        "--device-flops", type=POSITIVE,
        help="Peak operations per second of one device, for MFU [default: the card's in bfloat16, by its "
        "name; none for other devices and dtypes].",
    )  # fmt: skip


def parallel_options(*, condition: str = "", node: str, dtype: str) -> Callable[[F], F]:
    """How ranks share sequences and batches: options of `train` and `plan training`.

    `condition` stands before each default; `node` and `dtype` are the defaults that the two do not share.
    """
    return combine(
        click.option(
            "--context-parallel", type=COUNT,
            help=f"Ranks that share a sequence; others take other rows [{condition}default: all].",
        ),
        click.option(
            "--layout", type=Choice(["flat", "double", "usp", "torch"]),
            help="How they share it; torch is flat with torch's own loops "
            f"[{condition}default: by nodes and heads].",
        ),
        click.option(
            "--ranks-per-node", type=COUNT, help=f"Ranks of a node [{condition}default: {node}]."
        ),
        click.option(
            "--dtype", type=Choice(["float32", "bfloat16"]),
            help=f"Dtype of activations; trained weights and sums are float32 [default: {dtype}].",
        ),
        click.option(
            "--data-parallel-replicate", type=COUNT,
            help=f"Groups of ranks that each hold all weights, HSDP [{condition}default: 1].",
        ),
        click.option(
            "--rows-at-once", type=COUNT,
            help="Rows of a batch in one pass; gradients are summed [default: all].",
        ),
        click.option(
            "--sync-gradients-once", is_flag=True,
            help="Sum gradients over ranks after the last pass of a batch, not after each: less traffic, "
            "4 bytes of memory for each trained parameter.",
        ),
    )  # fmt: skip


def hardware_options(*, hidden: bool = False) -> Callable[[F], F]:
    """Options that describe the ranks and links of a training; `train`, which runs, hides most of them."""
    return combine(
        click.option(
            "--ranks", type=WholeNumber(1, MOST), default=1, show_default=True, hidden=hidden,
            help="Processes, one device each.",
        ),
        device_options(hidden=hidden),
        click.option(
            "--link", type=POSITIVE, default=50e9, show_default="50e9", hidden=hidden,
            help="Bytes per second of one link between nodes; the default is 400 Gbit/s.",
        ),
        click.option(
            "--links", type=WholeNumber(1, MOST), default=1, show_default=True, hidden=hidden,
            help="Links of a node to other nodes.",
        ),
    )  # fmt: skip


def options(command: F) -> F:
    """--plan and the options of the hardware, mostly hidden: the old form of `plan training`."""
    plan = click.option("--plan", is_flag=True, hidden=True, help="Print what the run would cost.")
    return plan(hardware_options(hidden=True)(command))


def show(config: Path, base: Path, *, as_json: bool, **values: Any) -> None:
    """Print the costs of a recipe for a base's folder or config.json; `values` are the options' values."""
    from contextgraft.config.training import load_recipe
    from contextgraft.planning.hardware import NODE_SIZE, Hardware
    from contextgraft.planning.shapes.model_shape import read_model_shape
    from contextgraft.planning.training import ParallelPlan, stage_costs, to_json

    recipe, shape = load_recipe(config), read_model_shape(base)
    ranks = values["ranks"]
    hardware = Hardware(
        flops=values["device_flops"] or PLANNED_FLOPS,
        utilisation=values["utilisation"],
        memory=values["device_memory"],
        node_size=values["ranks_per_node"] or min(ranks, NODE_SIZE),
        link_bandwidth=values["link"],
        links=values["links"],
    )
    plan = ParallelPlan(
        ranks,
        context=values["context_parallel"] or ranks,
        layout=values["layout"],
        rows=values["rows_at_once"],
        dtype=values["dtype"] or recipe.dtype or PLANNED_DTYPE,
        weight_replicas=values["data_parallel_replicate"] or 1,
        sync_gradients_once=values["sync_gradients_once"],
    )
    costs = stage_costs(recipe, shape, hardware, plan)
    if as_json:
        print_json(to_json(hardware, plan, costs) | {"recipe": recipe.name, "parameters": shape.parameters})
        return
    from contextgraft.cli.plan_tables import print_training

    print_training(recipe, shape, hardware, plan, costs)
