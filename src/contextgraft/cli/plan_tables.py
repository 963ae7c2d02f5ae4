"""Plans as text and tables on stdout."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from contextgraft.cli.output import echo, format_bytes, format_number, format_si, make_table, stdout_console
from contextgraft.planning import memory
from contextgraft.planning.hardware import GB, Hardware

if TYPE_CHECKING:
    from rich.table import Table

    from contextgraft.config.training import Recipe
    from contextgraft.planning.evaluation import PromptGrid, SuiteCost
    from contextgraft.planning.shapes.model_shape import ModelShape
    from contextgraft.planning.study import StudyPlan, StudyStep
    from contextgraft.planning.training import ParallelPlan, StageCost

GIB = 2**30


def _print_blocks(*blocks: "Iterable[str] | Table") -> None:
    """Print lines and tables, with an empty line between two blocks."""
    from rich.table import Table

    console = stdout_console()
    for number, block in enumerate(blocks):
        if number:
            echo()
        if isinstance(block, Table):
            console.print(block)
        else:
            for line in block:
                echo(line)


def print_evaluation(
    shape: "ModelShape", hardware: Hardware, grid: "PromptGrid", models: int, costs: "Sequence[SuiteCost]"
) -> None:
    """Print the plan of an evaluation: model, memory of each length, costs of each suite."""
    _print_blocks(
        _evaluation_head(shape, hardware, models),
        _memory_table(shape, hardware, grid),
        _cost_table(costs),
        _evaluation_notes(grid, costs),
    )


def _evaluation_head(shape: "ModelShape", hardware: Hardware, models: int) -> Iterator[str]:
    active = "" if not shape.idle else f" ({shape.active:,} of them for each token)"
    yield f"model    {shape.name}: {shape.parameters:,} parameters{active}, {shape.layers} layers"
    yield (
        f"weights  {_gib(memory.weight_bytes(shape))} in {shape.dtype};"
        f" keys and values {memory.kv_bytes_per_token(shape):,} bytes a token"
    )
    yield (
        f"device   {format_si(hardware.flops, 'FLOP/s')} of which {hardware.utilisation:.0%} are reached,"
        f" {format_si(hardware.bandwidth, 'B/s')}, {format_si(hardware.memory, 'B')}"
    )
    yield f"models   {models}"


def _memory_table(shape: "ModelShape", hardware: Hardware, grid: "PromptGrid") -> "Table":
    rows = []
    for length in grid.lengths:
        held = memory.held_bytes(shape, length)
        cache = _gib(memory.kv_bytes(shape, length))
        rows.append((f"{length:,}", cache, _gib(held), str(memory.fewest_devices(held, hardware))))
    return make_table((), ("length", "keys and values", "with weights", "fewest devices"), rows)


def _cost_table(costs: "Sequence[SuiteCost]") -> "Table":
    rows = [(cost.suite, f"{cost.length:,}", *_sums([cost])) for cost in costs]
    names = ("length", "prompts", "tokens read", "shared", "reading h", "shared h", "writing h", "wall h")
    return make_table(("suite",), names, [*rows, ("all", "", *_sums(costs))])


def _sums(costs: "Sequence[SuiteCost]") -> list[str]:
    """Sums of some rows; the layers of a model that several devices hold are computed in turn."""
    wall = sum(cost.hours_shared + cost.hours_writing for cost in costs)
    return [
        f"{sum(cost.prompts for cost in costs):,}",
        f"{sum(cost.tokens_alone for cost in costs):,}",
        f"{sum(cost.tokens_shared for cost in costs):,}",
        format_number(sum(cost.hours_alone for cost in costs)),
        format_number(sum(cost.hours_shared for cost in costs)),
        format_number(sum(cost.hours_writing for cost in costs)),
        format_number(wall),
    ]


def _evaluation_notes(grid: "PromptGrid", costs: "Sequence[SuiteCost]") -> Iterator[str]:
    yield "Hours are those of one device at work, for all models; wall hours are shared and writing hours."
    yield "Several devices hold a model's layers and compute them in turn: they take the time of one."
    yield "shared: a prompt reuses the prefix it has in common with the one before. Writing: one at a time."
    if any(cost.suite == "needle" for cost in costs) and not grid.one_text:
        needed = len(grid.depths) - 1
        yield f"With --distractors {needed} or more one text serves all {needed + 1} depths."


def print_study(plan: "StudyPlan", free: int) -> None:
    """Print the plan of a study: models, adapters, costs of each step and suite, and disk."""
    _print_blocks(
        _study_head(plan),
        _step_table(plan.steps),
        _cost_table(plan.costs),
        _disk_lines(plan, free),
        _study_notes(plan),
    )


def _study_head(plan: "StudyPlan") -> Iterator[str]:
    settings, shape, donor = plan.study.settings, plan.shape, plan.study.settings.donor
    expected = [
        *([f"theta {donor.theta:.17g}"] if donor.theta else []),
        *([f"{donor.max_positions:,} positions"] if donor.max_positions else []),
    ]
    size = memory.weight_bytes(shape)
    carried = settings.extraction.embeddings
    embeddings = f", embeddings ({carried})" if carried else ""
    dense = f", and {plan.dense:,} of norms" if plan.dense else ""
    ranks = ", ".join(map(str, plan.adapters))
    yield f"study     {settings.study}: {plan.disk.targets} fine-tunes, ranks {ranks}"
    yield f"base      {settings.base}: {shape.parameters:,} parameters, {size:,} bytes"
    yield f"donor     {donor.source or donor.train}" + (f": {', '.join(expected)}" if expected else "")
    yield f"extract   by {settings.extraction.backend}: linear layers{embeddings}"
    for rank, count in plan.adapters.items():
        yield f"adapter   r{rank}: {count:,} bytes of tensors{dense}"


def _step_table(steps: "Sequence[StudyStep]") -> "Table":
    names = (
        *("jobs", "hours a job", "hours", "GPU hours", "read", "written"),
        *("requests: memory", "GPUs", "busy", "minutes"),
    )
    rows = [
        (
            *(step.name, f"{step.jobs:,}", format_number(step.seconds / 3600), format_number(step.hours)),
            *(format_number(step.gpu_hours) if step.gpu_hours else "-", format_bytes(step.read)),
            *(format_bytes(step.written), format_bytes(step.request.mem_mb * 1e6)),
            *(str(step.request.gpus or "-"), str(step.busy or "-"), f"{step.request.minutes:,}"),
        )
        for step in steps
    ]
    hours, gpu_hours = sum(step.hours for step in steps), sum(step.gpu_hours for step in steps)
    total = (
        *("all", f"{sum(step.jobs for step in steps):,}", ""),
        *(format_number(hours), format_number(gpu_hours)),
        *(format_bytes(sum(step.read for step in steps)), format_bytes(sum(step.written for step in steps))),
    )
    return make_table(("step",), names, [*rows, total])


def _disk_lines(plan: "StudyPlan", free: int) -> Iterator[str]:
    disk = plan.disk
    enough = "enough" if free >= disk.peak else "NOT ENOUGH"
    all_kept, none_kept = format_bytes(disk.all_kept), format_bytes(disk.none_kept)
    yield f"disk      models {format_bytes(disk.models)}, adapters {format_bytes(disk.adapters)}"
    yield f"          {format_bytes(disk.graft_set)} for all grafts of one fine-tune"
    yield f"  peak    {format_bytes(disk.peak)} as configured ({disk.kept_grafts} grafts are kept)"
    yield f"          {all_kept} if all grafts are kept, {none_kept} if none is"
    if disk.served:
        served = format_bytes(disk.served)
        yield f"          {served} of it while a server runs a graft, for each evaluation at a time"
    yield f"  free    {format_bytes(free)} on the disk of this study ({plan.study.settings.study}): {enough}"


def _study_notes(plan: "StudyPlan") -> Iterator[str]:
    from contextgraft.planning.study import too_long

    cluster = plan.study.settings.cluster
    yield "Hours are estimates at the speeds of `cluster`; requested minutes are three times that, plus ten."
    yield "busy: GPUs of a job that compute at a time; the others hold layers and wait."
    yield "Skills are not counted: prompts of files are short, those of tasks may be long."
    yield "Nothing was run, nothing was fetched."
    for name in too_long(plan.steps, cluster):
        yield (
            f"{name}: a job takes longer than the {cluster.longest:,} minutes of cluster.longest. It resumes "
            "when it is submitted again; else evaluate fewer samples or shorter prompts."
        )


def print_training(
    recipe: "Recipe",
    shape: "ModelShape",
    hardware: Hardware,
    plan: "ParallelPlan",
    costs: "Sequence[StageCost]",
) -> None:
    """Print the plan of a training: work, memory of a rank and traffic between nodes, by stage."""
    head = (
        f"{recipe.name}: {shape.parameters:,} parameters, {' and '.join(recipe.trainable)} are trained",
        f"{plan.ranks} ranks, {hardware.node_size} a node, {plan.context} on a sequence, {plan.dtype};"
        f" {format_si(hardware.flops, 'FLOP/s')} of which {hardware.utilisation:.0%} are reached,"
        f" {hardware.links} x {format_si(hardware.link_bandwidth, 'B/s')} between nodes",
    )
    _print_blocks(
        head,
        _work_table(recipe, hardware, costs),
        _rank_memory_table(costs),
        _traffic_table(hardware, costs),
        _training_notes(recipe, hardware, plan, costs),
    )


def _work_table(recipe: "Recipe", hardware: Hardware, costs: "Sequence[StageCost]") -> "Table":
    names = (
        *("length", "steps", "tokens", "FLOPs", "device h", "ranks busy"),
        *("published h", "of its peak"),
    )
    rows = [
        (str(number), f"{stage.length:,}", *_work(hardware, cost))
        for number, (stage, cost) in enumerate(zip(recipe.stages, costs, strict=True), 1)
    ]
    total = (
        *("all", "", f"{sum(cost.steps for cost in costs):,}", f"{sum(cost.tokens for cost in costs):,}"),
        format_si(sum(cost.flops for cost in costs), "FLOP"),
        format_number(sum(cost.device_hours(hardware) for cost in costs), 4),
    )
    return make_table(("stage",), names, [*rows, total])


def _work(hardware: Hardware, cost: "StageCost") -> list[str]:
    published, reached = "", ""
    if cost.published is not None:
        published = format_number(cost.published, 4)
        reached = f"{cost.flops / cost.published / 3600 / hardware.flops:.1%}"
    return [
        *(f"{cost.steps:,}", f"{cost.tokens:,}", format_si(cost.flops, "FLOP")),
        *(format_number(cost.device_hours(hardware), 4), f"{cost.busy:.0%}", published, reached),
    ]


def _rank_memory_table(costs: "Sequence[StageCost]") -> "Table":
    rows = [
        (str(number), *(f"{count / GIB:,.2f}" for count in (*vars(cost.memory).values(), cost.memory.total)))
        for number, cost in enumerate(costs, 1)
    ]
    return make_table(("GiB a rank",), (*vars(costs[0].memory), "all"), rows)


def _traffic_table(hardware: Hardware, costs: "Sequence[StageCost]") -> "Table":
    names = (
        *("layout", "keys, values: GB out of a node", "on its busiest link"),
        *("weights GB", "link busy h"),
    )
    rows = []
    for number, cost in enumerate(costs, 1):
        for layout, traffic in cost.between.items():
            chosen = layout + (" (chosen)" if layout == cost.layout else "")
            figures = (traffic.node / GB, traffic.link / GB, cost.weights / GB)
            busy = format_number(cost.link_hours(hardware, layout))
            rows.append((str(number), chosen, *(format_number(figure, 4) for figure in figures), busy))
    return make_table(("between nodes",), names, rows)


def _training_notes(
    recipe: "Recipe", hardware: Hardware, plan: "ParallelPlan", costs: "Sequence[StageCost]"
) -> Iterator[str]:
    yield (
        "FLOPs are the model's. device h also counts recomputed activations and idle ranks, but only"
        " computing: wall hours are between the longer of computing and link, and their sum."
    )
    if any(cost.published for cost in costs):
        yield "of its peak: the model's FLOPs in the published device hours, divided by this device's peak."
    from contextgraft.planning.training import memory_remedies

    if any(cost.host for cost in costs):
        host = min(hardware.node_size, plan.ranks) * max(cost.host for cost in costs)
        yield f"What is offloaded needs {host / GB:,.0f} GB of a node's main memory."
    most = max(cost.memory.total for cost in costs)
    if most > hardware.memory:
        yield (
            f"A rank needs {most / GB:,.0f} GB and has {hardware.memory / GB:,.0f}: use"
            f" {', or '.join(memory_remedies(recipe, plan))}."
        )


def _gib(count: int) -> str:
    """Bytes in GiB, or in MiB where they are few."""
    return f"{count / GIB:,.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.1f} MiB"
