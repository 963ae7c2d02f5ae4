"""What a whole study costs, from its configuration and a config.json alone: bytes, hours, memory, disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contextgraft.adapter.extract.rank_spec import Selection
from contextgraft.config.base import read_yaml
from contextgraft.config.cluster import Cluster
from contextgraft.config.resolved_study import ResolvedStudy, load_study
from contextgraft.config.study import Evaluation, ExtractionConfig
from contextgraft.config.training import load_recipe
from contextgraft.errors import ConfigError
from contextgraft.formats.tensor_names import TensorRole
from contextgraft.planning import evaluation, inference, requests, slurm
from contextgraft.planning.adapters import adapter_bytes, dense_bytes
from contextgraft.planning.evaluation import Grid, Line
from contextgraft.planning.inference import Device
from contextgraft.planning.model_shape import Shape
from contextgraft.planning.slurm import GB, Request
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS

EMBEDDINGS: Mapping[str | None, tuple[TensorRole, ...]] = {
    None: (),
    "both": (TensorRole.INPUT, TensorRole.OUTPUT),
    "input": (TensorRole.INPUT,),
    "output": (TensorRole.OUTPUT,),
}
MAIN_MEMORY = 2e10  # bytes a second that processors read, where there are no GPUs: assumed
REPORT = 60.0


@dataclass(frozen=True)
class Step:
    """Jobs of one kind: seconds of one at full speed, what it asks for, bytes of all of them together."""

    name: str
    jobs: int
    seconds: float
    request: Request
    read: int = 0
    written: int = 0

    @property
    def hours(self) -> float:
        """Hours of all jobs, one after another."""
        return self.jobs * self.seconds / 3600

    @property
    def gpu_hours(self) -> float:
        """The same, times the GPUs that each holds."""
        return self.hours * self.request.gpus


@dataclass(frozen=True)
class Disk:
    """Bytes that a study takes at its fullest.

    `models`: base, donors and fine-tunes; `graft_set`: all grafts of one fine-tune. `peak` is with the grafts
    that the study does not keep deleted once they were asked, `at_once` sets of them at a time.
    """

    models: int
    adapters: int
    graft_set: int
    targets: int
    kept_targets: int
    at_once: int

    @property
    def all_kept(self) -> int:
        """If nothing is deleted."""
        return self.models + self.adapters + self.targets * self.graft_set

    @property
    def peak(self) -> int:
        """As the study says which grafts stay."""
        passing = min(self.at_once, self.targets - self.kept_targets)
        return self.models + self.adapters + (self.kept_targets + passing) * self.graft_set

    @property
    def none_kept(self) -> int:
        """If no graft stays."""
        return self.models + self.adapters + min(self.at_once, self.targets) * self.graft_set

    @property
    def left(self) -> int:
        """What stays at the end, as the study says."""
        return self.models + self.adapters + self.kept_targets * self.graft_set


@dataclass(frozen=True)
class StudyPlan:
    """All figures of a study; `adapters` are bytes of the tensors of factors by rank."""

    study: ResolvedStudy
    shape: Shape
    adapters: Mapping[int, int]
    dense: int
    steps: tuple[Step, ...]
    lines: tuple[Line, ...]
    disk: Disk


def read_study(path: Path) -> ResolvedStudy:
    """The study of a configuration file; ConfigError or InputError if it is none."""
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise ConfigError("is no study", path=path, expected="keys and values, as in config/config.yaml")
    return load_study(config, path, NEEDLE_KINDS)


def plan(study: ResolvedStudy, at_once: int = 1) -> StudyPlan:
    """Plan a study for the cluster that it names."""
    settings = study.settings
    shape = requests.shape_of(settings.shape, settings.base)
    chosen = selection(settings.extraction)
    adapters = {rank: adapter_bytes(shape, chosen, rank) for rank in sorted(settings.ranks)}
    dense = 0 if settings.extraction.backend == "mergekit" else dense_bytes(shape, chosen)
    written = len(settings.donor_seeds) * (sum(adapters.values()) + dense * len(adapters))
    grafts = len(settings.donor_seeds) * (len(adapters) + 1)
    disk = Disk(
        models=len(study.origins) * shape.size,
        adapters=written,
        graft_set=grafts * shape.size,
        targets=len(study.targets),
        kept_targets=sum(study.keeps_grafts(target) for target in study.targets),
        at_once=at_once,
    )
    steps = tuple(_steps(study, shape, disk, max(adapters.values())))
    return StudyPlan(study, shape, adapters, dense, steps, tuple(lines(study, shape, models(study))), disk)


def selection(extraction: ExtractionConfig) -> Selection:
    """Which tensors the study's adapters carry."""
    return Selection(extraction.include, extraction.exclude, EMBEDDINGS[extraction.embeddings])


def models(study: ResolvedStudy) -> int:
    """Models that are asked: base and donors; each fine-tune alone, with theta only, and at each rank."""
    settings = study.settings
    return 1 + len(settings.donor_seeds) + len(study.targets) * _asked_of(study)


def _asked_of(study: ResolvedStudy) -> int:
    """Models that one fine-tune's job asks."""
    return 1 + len(study.settings.donor_seeds) * (1 + len(study.settings.ranks))


def _steps(study: ResolvedStudy, shape: Shape, disk: Disk, adapter: int) -> Iterator[Step]:
    settings, cluster = study.settings, study.settings.cluster
    asked = requests.demands(study, shape, cluster)
    rules, threads, seeds, size = asked.rules, settings.threads, len(settings.donor_seeds), shape.size
    backend = settings.extraction.backend
    fetched = sum(origin.source is not None for origin in study.origins.values())
    yield Step(
        "fetch", fetched, slurm.fetching(shape, cluster), rules["fetch"], fetched * size, fetched * size
    )
    for name, request in asked.training.items():
        yield Step(f"train {name}", 1, _training(study, name, shape, request), request, size, size)
    extracting = slurm.EXTRACTIONS[backend].seconds(shape, cluster, settings.ranks, threads.extract)
    runs = 2 * len(settings.ranks) if backend == "mergekit" else 1  # it reads both for each, and so do we
    yield Step("extract", seeds, extracting, rules["extract"], seeds * runs * 2 * size, disk.adapters)
    pairs = seeds * disk.targets
    merging = slurm.merging(shape, cluster, threads.merge)
    for name, jobs, each, made in (
        ("merge", pairs * len(settings.ranks), size + adapter, size),
        ("theta_only", pairs, size, size),
        ("verify", pairs, 2 * size + adapter, 0),
        ("align", pairs, 3 * size, 0),
    ):
        yield Step(name, jobs, merging, rules[name], jobs * each, jobs * made)
    for name, jobs, count in (
        ("evaluate", disk.targets, _asked_of(study)),
        ("evaluate_base", 1, 1 + seeds),
    ):
        seconds = _asking(study, shape, count, rules[name])
        yield Step(name, jobs, seconds, rules[name], jobs * count * size)
    yield Step("report", 1, REPORT, rules["report"])


def _training(study: ResolvedStudy, name: str, shape: Shape, request: Request) -> float:
    recipe = study.origins[name].recipe
    assert recipe is not None
    cluster, threads = study.settings.cluster, study.settings.threads.train
    work = slurm.training_work(shape, load_recipe(Path(recipe)).stages)
    if request.gpus:
        return work / (request.gpus * cluster.gpu_teraflops * 1e12)
    return work / (request.nodes * threads * cluster.cpu_gigaflops * 1e9)


def _asking(study: ResolvedStudy, shape: Shape, count: int, request: Request) -> float:
    """Seconds of asking `count` models: loading them, reading prompts, writing answers."""
    hours = sum(line.hours_shared + line.hours_writing for line in lines(study, shape, count))
    reading = count * shape.size / GB / study.settings.cluster.disk
    return reading + hours * 3600 / max(1, request.gpus)


def lines(study: ResolvedStudy, shape: Shape, count: int) -> list[Line]:
    """Costs of asking `count` models everything the study asks, suite by suite and length by length."""
    device = device_of(study.settings.cluster, study.settings.threads.evaluate)
    given = costs_shape(shape, study.settings.cluster)
    return list(_lines(study.settings.evaluation, given, device, count))


def _lines(asked: Evaluation, shape: inference.Shape, device: Device, count: int) -> Iterator[Line]:
    needle = asked.needle
    grid = Grid(tuple(needle.lengths), tuple(needle.depths), needle.samples, needle.distractors)
    grids = len(needle.kinds) * max(1, len(needle.haystacks))
    yield from evaluation.lines(shape, device, grid, ["needle"], count * grids)
    if asked.ruler:
        answers = [evaluation.RULER_ANSWERS[task] for task in asked.ruler.asked]
        for length in asked.ruler.lengths:
            whole = ((0, length),)
            works = [evaluation.Work(asked.ruler.samples, whole, whole, answer) for answer in answers]
            yield evaluation.line(shape, device, works, suite="ruler", length=length, count=count)
    if asked.perplexity:
        texts = Grid(tuple(asked.perplexity.lengths), (), asked.perplexity.documents, 0)
        yield from evaluation.lines(shape, device, texts, ["perplexity"], count)
    if asked.divergence:
        texts = Grid((asked.divergence.length,), (), asked.divergence.prompts, 0)
        yield from evaluation.lines(shape, device, texts, ["divergence"], count)


def device_of(cluster: Cluster, threads: int) -> Device:
    """One GPU of the cluster, or the threads that an evaluation gets where there are none."""
    if cluster.gpus_per_node:
        return Device(
            cluster.gpu_teraflops * 1e12, 1.0, cluster.gpu_bandwidth * 1e12, cluster.gpu_memory * GB
        )
    return Device(threads * cluster.cpu_gigaflops * 1e9, 1.0, MAIN_MEMORY, cluster.node_memory * GB)


def costs_shape(shape: Shape, cluster: Cluster) -> inference.Shape:
    """The shape as the costs of an evaluation are computed from it; processors compute in float32."""
    return inference.Shape(
        name="study",
        parameters=shape.parameters,
        active=shape.parameters,
        width=shape.heads * shape.head,
        kv_heads=shape.kv_heads,
        head_dim=shape.head,
        windows=(None,) * shape.layers,
        dtype="bfloat16" if cluster.gpus_per_node else "float32",
    )


def too_long(steps: Sequence[Step], cluster: Cluster) -> list[str]:
    """Steps whose jobs take longer than the partition lets any run."""
    return [step.name for step in steps if step.seconds / 60 > cluster.longest]


def to_json(found: StudyPlan, free: int) -> dict[str, Any]:
    """All figures as plain JSON values; `free` are bytes of the disk that the study would be on."""
    settings, disk = found.study.settings, found.disk
    return {
        "study": settings.study,
        "base": settings.base,
        "donor": settings.donor.model_dump(exclude_none=True),
        "targets": disk.targets,
        "extraction": settings.extraction.model_dump(exclude_none=True),
        "model": asdict(found.shape) | {"parameters": found.shape.parameters, "bytes": found.shape.size},
        "adapters": {str(rank): count for rank, count in found.adapters.items()},
        "adapter_dense_bytes": found.dense,
        "steps": [asdict(step) | {"hours": step.hours, "gpu_hours": step.gpu_hours} for step in found.steps],
        "evaluation": [asdict(line) for line in found.lines],
        "hours": sum(step.hours for step in found.steps),
        "gpu_hours": sum(step.gpu_hours for step in found.steps),
        "too_long": too_long(found.steps, settings.cluster),
        "disk": asdict(disk)
        | {"peak": disk.peak, "all_kept": disk.all_kept, "none_kept": disk.none_kept}
        | {"left": disk.left, "free": free},
        "cluster": settings.cluster.model_dump(),
    }
