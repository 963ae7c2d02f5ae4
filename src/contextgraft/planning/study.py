"""What a whole study costs, from its configuration and a config.json alone: bytes, hours, memory, disk."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from contextgraft.adapter.extract.rank_spec import TensorSelection
from contextgraft.checkpoint.safetensors_header import TensorInfo
from contextgraft.config.base import read_yaml
from contextgraft.config.cluster import Cluster
from contextgraft.config.evaluation import OF_SKILLS
from contextgraft.config.resolved_study import ResolvedStudy, load_study
from contextgraft.config.server.backend import ServerBackend
from contextgraft.config.study import ExtractionConfig
from contextgraft.config.text_file import is_file
from contextgraft.errors import ConfigError, InputError
from contextgraft.formats.tensor_names import TensorRole
from contextgraft.planning.adapters import adapter_bytes, check_ranks, dense_bytes, tensor_infos
from contextgraft.planning.evaluation import SuiteCost, describe_model, study_suite_costs
from contextgraft.planning.hardware import Hardware
from contextgraft.planning.jobs import (
    JobEstimate,
    evaluated_shape,
    models_of_target,
    study_jobs,
    with_skills,
)
from contextgraft.planning.memory import weight_bytes
from contextgraft.planning.shapes.model_shape import ModelShape, read_model_shape
from contextgraft.planning.slurm import SlurmRequest, request
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS

ASSUMED = "smollm2-135m"  # where a study names no shape, and its base is not a folder
EMBEDDINGS: Mapping[str | None, tuple[TensorRole, ...]] = {
    None: (),
    "both": (TensorRole.INPUT, TensorRole.OUTPUT),
    "input": (TensorRole.INPUT,),
    "output": (TensorRole.OUTPUT,),
}


@dataclass(frozen=True)
class StudyStep:
    """Jobs of one kind: seconds of one at full speed, what it requests, bytes of all of them together.

    `busy` of the GPUs of a job compute at a time.
    """

    name: str
    jobs: int
    seconds: float
    request: SlurmRequest
    read: int = 0
    written: int = 0
    busy: int = 0

    @property
    def hours(self) -> float:
        """Hours of all jobs, one after another."""
        return self.jobs * self.seconds / 3600

    @property
    def gpu_hours(self) -> float:
        """The same, times the GPUs of each job."""
        return self.hours * self.request.gpus


@dataclass(frozen=True)
class DiskUse:
    """Bytes that a study occupies on the disk.

    `models`: base, donors and fine-tunes; `graft_set`: all grafts of one fine-tune; `kept_grafts`: the number
    of grafts that are written, which is never more than are kept; `served`: what one evaluation writes while
    a server runs a graft, which is removed afterwards.
    """

    models: int
    adapters: int
    graft_set: int
    targets: int
    kept_grafts: int
    graft: int
    served: int = 0

    @property
    def all_kept(self) -> int:
        """Bytes on the disk at the end if all grafts are kept."""
        return self.none_kept + self.targets * self.graft_set

    @property
    def none_kept(self) -> int:
        """Bytes on the disk at the end if no graft is kept."""
        return self.models + self.adapters

    @property
    def peak(self) -> int:
        """Largest number of bytes on the disk as configured: that at the end, and what is served."""
        return self.none_kept + self.kept_grafts * self.graft + self.served


@dataclass(frozen=True)
class StudyPlan:
    """All figures of a study; `adapters` are bytes of the tensors of factors by rank."""

    study: ResolvedStudy
    shape: ModelShape
    adapters: Mapping[int, int]
    dense: int
    steps: tuple[StudyStep, ...]
    costs: tuple[SuiteCost, ...]
    disk: DiskUse


def read_study(path: Path) -> ResolvedStudy:
    """The study of a configuration file; ConfigError or InputError if it is not one."""
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise ConfigError(
            "not the configuration of a study",
            path=path,
            expected="keys and values, as in config/config.yaml",
            received=type(config).__name__,
        )
    return load_study(config, path, NEEDLE_KINDS)


def study_shape(study: ResolvedStudy) -> ModelShape:
    """The shape that a study names, else that of a base in a folder, else SmolLM2-135M's.

    ConfigError for a rank that no module of a shape that is not assumed can have.
    """
    settings = study.settings
    local = is_file(Path(settings.base) / "config.json")
    known = settings.shape or (settings.base if local else None)
    shape = read_model_shape(known or ASSUMED)
    if known is not None:
        check_study_ranks(study, tensor_infos(shape))
    return shape


def check_study_ranks(study: ResolvedStudy, tensors: Iterable[TensorInfo]) -> None:
    """Raise ConfigError for ranks of a study that none of the base's modules can have."""
    settings = study.settings
    try:
        check_ranks(settings.ranks, tensors, selection(settings.extraction))
    except InputError as error:
        raise ConfigError(str(error), path=study.source) from None


def plan_study(study: ResolvedStudy) -> StudyPlan:
    """Plan a study for the cluster that it names."""
    settings = study.settings
    shape = study_shape(study)
    chosen = selection(settings.extraction)
    adapters = {rank: adapter_bytes(shape, chosen, rank) for rank in sorted(settings.ranks)}
    dense = 0 if settings.extraction.backend == "mergekit" else dense_bytes(shape, chosen)
    seeds, size = len(settings.donor_seeds), weight_bytes(shape)
    kept = {"recommended": 1, "all": len(adapters) + 1, "none": 0}
    disk = DiskUse(
        models=len(study.origins) * size,
        adapters=seeds * (sum(adapters.values()) + dense * len(adapters)),
        graft_set=seeds * (len(adapters) + 1) * size,
        targets=len(study.targets),
        kept_grafts=seeds * sum(kept[study.kept_grafts(target)] for target in study.targets),
        graft=size,
        served=served_models(settings.evaluation.backend) * size,
    )
    hardware = Hardware.from_cluster(settings.cluster, settings.threads.evaluate)
    computed = evaluated_shape(shape, settings.cluster, settings.evaluation)
    models, runs = count_models(study), 1 + len(study.targets)  # one of base and donors
    skills = [skill for target in study.targets for skill in study.skills(target)]
    everywhere, own = with_skills(study, []), with_skills(study, skills, among=OF_SKILLS)
    costs = (
        *study_suite_costs(everywhere, computed, hardware, models, runs),
        *study_suite_costs(own, computed, hardware, models_of_target(study)),
    )
    steps = tuple(_steps(study, shape, disk, max(adapters.values())))
    return StudyPlan(study, shape, adapters, dense, steps, costs, disk)


def served_models(backend: ServerBackend | None) -> int:
    """How many models an evaluation writes for a server at a time: a graft, and its GGUF file."""
    if backend is None or backend.serve is None:
        return 0
    return 2 if backend.converter else 1


def peak_here(plan: StudyPlan) -> int:
    """The peak of the disk of the current folder: what is served may be on another."""
    backend = plan.study.settings.evaluation.backend
    temporary = Path((backend and backend.temporary) or gettempdir())
    elsewhere = temporary.is_dir() and temporary.stat().st_dev != Path().stat().st_dev
    return plan.disk.peak - (plan.disk.served if elsewhere else 0)


def selection(extraction: ExtractionConfig) -> TensorSelection:
    """Which tensors the study's adapters carry."""
    return TensorSelection(extraction.include, extraction.exclude, EMBEDDINGS[extraction.embeddings])


def count_models(study: ResolvedStudy) -> int:
    """Models that are evaluated: base and donors; each fine-tune alone, with theta only, and at each rank."""
    return 1 + len(study.settings.donor_seeds) + len(study.targets) * models_of_target(study)


def _steps(study: ResolvedStudy, shape: ModelShape, disk: DiskUse, adapter: int) -> Iterator[StudyStep]:
    settings, seeds, size = study.settings, len(study.settings.donor_seeds), weight_bytes(shape)
    estimates = study_jobs(study, shape)
    fetched = sum(origin.source is not None for origin in study.origins.values())
    # mergekit reads both models for each rank, and they are read again to measure its adapter.
    passes = 2 * len(settings.ranks) if settings.extraction.backend == "mergekit" else 1
    grafts = disk.kept_grafts

    def step(name: str, job: JobEstimate, jobs: int, read: int = 0, written: int = 0) -> StudyStep:
        return StudyStep(name, jobs, job.seconds, request(job, settings.cluster), read, written, job.busy)

    rules = estimates.rules
    yield step("fetch", rules["fetch"], fetched, fetched * size, fetched * size)
    for name, job in estimates.training.items():
        yield step(f"train {name}", job, 1, size, size)
    yield step("extract", rules["extract"], seeds, seeds * passes * 2 * size, disk.adapters)
    # Fine-tune and base. The grafts are made from the page cache; a fine-tune that does not fit into it is
    # read again for the digests of each and to load it: not counted here. The job's seconds count the loads.
    yield step("evaluate", rules["evaluate"], disk.targets, disk.targets * (2 * size + disk.adapters))
    if grafts:
        # the target, then graft and target for the verification; the adapter both times
        yield step("merge", rules["merge"], grafts, grafts * (3 * size + 2 * adapter), grafts * size)
    yield step("evaluate_base", rules["evaluate_base"], 1, (1 + seeds) * size)
    yield step("report", rules["report"], 1)


def too_long(steps: Sequence[StudyStep], cluster: Cluster) -> list[str]:
    """Steps whose jobs take longer than the partition allows."""
    return [step.name for step in steps if step.seconds / 60 > cluster.longest]


def to_json(plan: StudyPlan, free: int) -> dict[str, Any]:
    """All figures as plain JSON values; `free` are bytes of the disk that the study would be on."""
    settings, disk, shape = plan.study.settings, plan.disk, plan.shape
    return {
        "study": settings.study,
        "base": settings.base,
        "donor": settings.donor.model_dump(exclude_none=True),
        "targets": disk.targets,
        "extraction": settings.extraction.model_dump(exclude_none=True),
        "model": describe_model(shape) | {"head": shape.head_dim, "bytes": weight_bytes(shape)},
        "adapters": {str(rank): count for rank, count in plan.adapters.items()},
        "adapter_dense_bytes": plan.dense,
        "steps": [asdict(step) | {"hours": step.hours, "gpu_hours": step.gpu_hours} for step in plan.steps],
        "evaluation": [asdict(cost) for cost in plan.costs],
        "hours": sum(step.hours for step in plan.steps),
        "gpu_hours": sum(step.gpu_hours for step in plan.steps),
        "too_long": too_long(plan.steps, settings.cluster),
        "disk": asdict(disk)
        | {"peak": disk.peak, "all_kept": disk.all_kept, "none_kept": disk.none_kept, "free": free},
        "cluster": settings.cluster.model_dump(),
    }
