"""The plan of a study for people."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from contextgraft.cli.output import format_bytes, stdout_console
from contextgraft.cli.plan_study import Step, StudyPlan, too_long
from contextgraft.cli.plan_table import cost_table, hours
from contextgraft.config.cluster import Cluster


def show(found: StudyPlan, free: int) -> None:
    """Print what the study is, its adapters, what each step costs, and the disk it needs."""
    console = stdout_console()
    for line in head(found):
        console.print(Text(line))
    console.print()
    console.print(step_table(found.steps))
    console.print()
    console.print(cost_table(found.lines))
    console.print()
    for line in (*disk_lines(found, free), "", *notes(found)):
        console.print(Text(line))


def head(found: StudyPlan) -> Iterator[str]:
    """The study, its models and its adapters."""
    settings, shape = found.study.settings, found.shape
    donor = settings.donor
    told = [
        *([f"theta {donor.theta:.17g}"] if donor.theta else []),
        *([f"{donor.max_positions:,} positions"] if donor.max_positions else []),
    ]
    ranks = ", ".join(map(str, found.adapters))
    yield f"study     {settings.study}: {found.disk.targets} fine-tunes, ranks {ranks}"
    yield f"base      {settings.base}: {shape.parameters:,} parameters, {shape.size:,} bytes"
    yield f"donor     {donor.source or donor.train}" + (f": {', '.join(told)}" if told else "")
    carried = settings.extraction.embeddings
    also = f", embeddings ({carried})" if carried else ""
    yield f"extract   by {settings.extraction.backend}: linear layers{also}"
    for rank, count in found.adapters.items():
        beside = f", and {found.dense:,} of norms" if found.dense else ""
        yield f"adapter   r{rank}: {count:,} bytes of tensors{beside}"


def step_table(steps: tuple[Step, ...]) -> Table:
    """What each step takes, and what one of its jobs asks for."""
    table = Table("step", box=None)
    names = (
        "jobs",
        "hours a job",
        "hours",
        "GPU hours",
        "read",
        "written",
        "asks: memory",
        "GPUs",
        "minutes",
    )
    for name in names:
        table.add_column(name, justify="right")
    for step in steps:
        asked = step.request
        table.add_row(
            step.name, f"{step.jobs:,}", hours(step.seconds / 3600), hours(step.hours),
            hours(step.gpu_hours) if step.gpu_hours else "-",
            format_bytes(step.read), format_bytes(step.written),
            format_bytes(asked.mem_mb * 1e6), str(asked.gpus or "-"), f"{asked.minutes:,}",
        )  # fmt: skip
    table.add_row(
        "all", f"{sum(step.jobs for step in steps):,}", "", hours(sum(step.hours for step in steps)),
        hours(sum(step.gpu_hours for step in steps)), format_bytes(sum(step.read for step in steps)),
        format_bytes(sum(step.written for step in steps)),
    )  # fmt: skip
    return table


def disk_lines(found: StudyPlan, free: int) -> Iterator[str]:
    """What is needed on the disk, with and without the grafts."""
    disk, settings = found.disk, found.study.settings
    kept = f"{disk.kept_targets} of {disk.targets} fine-tunes keep their grafts; {disk.at_once} at once"
    stay, no_graft = format_bytes(disk.left), format_bytes(disk.none_kept)
    yield f"disk      models {format_bytes(disk.models)}, adapters {format_bytes(disk.adapters)}"
    yield f"          {format_bytes(disk.graft_set)} for all grafts of one fine-tune"
    yield f"  peak    {format_bytes(disk.peak)} as configured ({kept}), of which {stay} stay"
    yield f"          {format_bytes(disk.all_kept)} if all grafts are kept, {no_graft} if none is"
    enough = "enough" if free >= disk.peak else "NOT ENOUGH"
    yield f"  free    {format_bytes(free)} where the study {settings.study} would be: {enough}"


def notes(found: StudyPlan) -> Iterator[str]:
    """How the figures are meant, and what will not fit."""
    cluster: Cluster = found.study.settings.cluster
    yield "Hours are estimates at the speeds of `cluster`; minutes asked for are three times that, plus ten."
    yield "Skills are short beside the rest and not counted. Nothing was run, nothing was fetched."
    for name in too_long(found.steps, cluster):
        yield (
            f"{name}: a job takes longer than the {cluster.longest:,} minutes of cluster.longest; it goes on "
            "where it stopped, or ask fewer samples or shorter prompts"
        )
