"""What one job of each step of a study needs: seconds at full speed, memory, GPUs and nodes.

The constants were measured (docs/benchmarks.md); docs/cluster.md has the formulas.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path

from contextgraft.config.cluster import Cluster
from contextgraft.config.control_names import FROM_DONOR, FROM_SHORT_DONOR, OF_NO_DONOR
from contextgraft.config.evaluation import OF_SKILLS, SECTIONS, EvaluationConfig
from contextgraft.config.resolved_study import ResolvedStudy
from contextgraft.config.target_sheet import JSONL
from contextgraft.config.training import Recipe, load_recipe
from contextgraft.errors import ConfigError
from contextgraft.planning.evaluation import count_references, study_suite_costs
from contextgraft.planning.hardware import GB, Hardware
from contextgraft.planning.memory import FILL, fewest_devices, held_bytes, weight_bytes
from contextgraft.planning.shapes.model_shape import ModelShape
from contextgraft.planning.training import ParallelPlan, executed_flops, stage_costs
from contextgraft.training.schedule import training_steps

LEAST = 4e9  # bytes of Python, torch, and tiles that are streamed; extract and merge take a tenth of it
EXTRACT = 22e-9  # processor seconds a weight for all ranks to 128: 18.7 s for a layer of 70B
MERGEKIT = 3.6e-10  # processor seconds a weight and column of its smaller side: 693 s for the 1B shape
MERGE = 2e-9  # processor seconds a changed weight
TRAINED = 16  # bytes of main memory a weight in training: master, gradient and two moments in float32
MAX_NODES = 1024
REPORT = 60.0  # seconds


@dataclass(frozen=True)
class JobEstimate:
    """What one job needs: seconds at full speed, bytes of main memory of a node, GPUs of all its nodes.

    `at_work` of the GPUs compute at a time, None means all: layers in turn keep one at work.
    """

    seconds: float
    memory: float = LEAST
    gpus: int = 0
    nodes: int = 1
    at_work: int | None = None

    @property
    def busy(self) -> int:
        """GPUs that compute at a time."""
        return self.gpus if self.at_work is None else self.at_work


@dataclass(frozen=True)
class StudyJobs:
    """One job of each rule of the workflow, and the training of each model that is trained."""

    rules: Mapping[str, JobEstimate]
    training: Mapping[str, JobEstimate]


def study_jobs(study: ResolvedStudy, shape: ModelShape) -> StudyJobs:
    """The jobs of a study; ConfigError where no node of its cluster can hold what is evaluated."""
    settings, cluster = study.settings, study.settings.cluster
    threads = settings.threads
    seeds, models = len(settings.donor_seeds), models_of_target(study)

    def evaluate(skills: Sequence[str], models: int) -> JobEstimate:
        return evaluate_job(with_skills(study, skills), shape, cluster, models, threads.evaluate)

    files = [[skill for skill in study.skills(name) if skill.endswith(JSONL)] for name in study.targets]
    most = max(files, key=len, default=[])
    return StudyJobs(
        rules={
            "fetch": fetch_job(shape, cluster),
            "extract": EXTRACT_JOBS[settings.extraction.backend](
                shape, cluster, settings.ranks, threads.extract
            ),
            "merge": merge_job(shape, cluster, threads.merge),
            "evaluate": with_grafts(
                evaluate(most, models),
                shape,
                cluster,
                models - 1,
                threads.evaluate,
                reads=full_rank_reads(study),
            ),
            "evaluate_base": evaluate([], 1 + seeds),
            "report": JobEstimate(REPORT),
        },
        training=_training_jobs(study, shape),
    )


def with_skills(
    study: ResolvedStudy, skills: Sequence[str], among: Collection[str] = tuple(SECTIONS)
) -> EvaluationConfig:
    """What the study evaluates of some suites, with these skills; without skills no suites that need them."""
    evaluation = study.settings.evaluation.with_section("skill", skills=list(skills))
    known = among if skills else set(among).difference(OF_SKILLS)
    suites = [name for name in evaluation.selected_suites if name in known]
    return evaluation.model_copy(update={"suites": suites})


def models_of_target(study: ResolvedStudy) -> int:
    """Models that a fine-tune's job evaluates: alone; for each seed each rank and scale, and the controls."""
    settings = study.settings
    seeds, evaluation = len(settings.donor_seeds), settings.evaluation
    once = [name for name in evaluation.all_controls if name in OF_NO_DONOR]
    of_each = len(settings.ranks) * len(evaluation.all_scales) + len(evaluation.all_controls) - len(once)
    return 1 + len(once) + seeds * of_each


def full_rank_reads(study: ResolvedStudy) -> int:
    """How often a fine-tune's job reads base, donors and short donor for its controls of full rank.

    Each model once for its digest; base and donor of every row again, when its graft is made and when it is
    loaded.
    """
    controls = study.settings.evaluation.all_controls
    rows = (FROM_DONOR in controls) * len(study.settings.donor_seeds) + (FROM_SHORT_DONOR in controls)
    return 1 + rows + 2 * 2 * rows if rows else 0


def fetch_job(shape: ModelShape, cluster: Cluster) -> JobEstimate:
    """A download, and reading it once more for its digests."""
    return JobEstimate(weight_bytes(shape) / GB * (1 / cluster.network + 1 / cluster.disk))


def extract_job(shape: ModelShape, cluster: Cluster, ranks: Sequence[int], threads: int) -> JobEstimate:
    """All ranks from one pass: both models are read once, a weight costs the same up to rank 128."""
    work = EXTRACT * _linear_weights(shape) * max(1.0, max(ranks) / 128) / threads
    return JobEstimate(work + 2 * _disk_seconds(shape, cluster))


def mergekit_extract_job(
    shape: ModelShape, cluster: Cluster, ranks: Sequence[int], threads: int
) -> JobEstimate:
    """Mergekit's extraction: every matrix is decomposed whole, anew for each rank, then measured.

    It holds copies of the largest matrix in float32, and the adapter.
    """
    output = (shape.vocabulary, shape.hidden)
    sides = [*shape.matrices.values(), output]
    work = MERGEKIT * sum(prod(matrix) * min(matrix) for matrix in sides) / threads
    return JobEstimate(
        len(ranks) * (work + 4 * _disk_seconds(shape, cluster)),
        memory=LEAST + 5 * 4 * prod(output) + 0.1 * weight_bytes(shape),
    )


EXTRACT_JOBS: Mapping[str, Callable[[ModelShape, Cluster, Sequence[int], int], JobEstimate]] = {
    "contextgraft": extract_job,
    "mergekit": mergekit_extract_job,
}


def merge_job(shape: ModelShape, cluster: Cluster, threads: int) -> JobEstimate:
    """One graft and its verification: a model is read and one written, and both are read again."""
    return JobEstimate(2 * MERGE * _linear_weights(shape) / threads + 4 * _disk_seconds(shape, cluster))


def evaluate_job(
    evaluation: EvaluationConfig, shape: ModelShape, cluster: Cluster, models: int, threads: int
) -> JobEstimate:
    """Models one after another on the GPUs of one node or on processors.

    The backend `hf` places layers on GPUs in turn (device_map="auto"), as llama.cpp does: one GPU computes
    while the others wait, so several take the time of one. The `tensor_parallel` GPUs of vLLM share the work,
    without a loss in this estimate; it reads each model from files, so that grafts are written and read once.
    """
    hardware = Hardware.from_cluster(cluster, threads)
    computed = evaluated_shape(shape, cluster, evaluation)
    costs = list(study_suite_costs(evaluation, computed, hardware, models))
    longest = max((cost.length for cost in costs), default=0)
    held = held_bytes(computed, longest)
    hours = sum(cost.hours_shared + cost.hours_writing for cost in costs)
    loads = (1 if evaluation.backend is None else 3) * models + count_references(evaluation)
    loading = loads * _disk_seconds(shape, cluster)
    if not cluster.gpus_per_node:
        return JobEstimate(loading + hours * 3600, memory=held + LEAST)
    needed = fewest_devices(held, hardware)
    sharing = evaluation.backend.tensor_parallel if evaluation.backend else 1
    gpus = sharing if evaluation.backend and evaluation.backend.serve == "vllm" else needed
    check_gpus(needed, gpus, longest, held, cluster)
    return JobEstimate(
        loading + hours * 3600 / sharing, memory=weight_bytes(shape) + 2 * LEAST, gpus=gpus, at_work=sharing
    )


def check_gpus(needed: int, gpus: int, longest: int, held: float, cluster: Cluster) -> None:
    """Raise ConfigError if a node, or the server that the study names, has too few GPUs for an evaluation."""
    memory = f"{held / GB:.0f} GB of weights, keys and values, {cluster.gpu_memory:g} GB a GPU"
    if needed > gpus:
        raise ConfigError(
            f"prompts of {longest} tokens need the memory of {needed} GPUs",
            expected=f"evaluation.backend.tensor_parallel of {needed} or more",
            received=f"{gpus}; {memory}",
            remedy="set tensor_parallel, or evaluate shorter prompts",
        )
    if gpus > cluster.gpus_per_node:
        raise ConfigError(
            f"prompts of {longest} tokens need the memory of {needed} GPUs",
            expected=f"at most {cluster.gpus_per_node}, the GPUs of one node (cluster.gpus_per_node)",
            received=f"{gpus} for {memory}" if gpus > needed else memory,
            remedy="evaluate shorter prompts, or correct the section `cluster`",
        )


def with_grafts(
    job: JobEstimate, shape: ModelShape, cluster: Cluster, grafts: int, threads: int, *, reads: int = 0
) -> JobEstimate:
    """The evaluation of a fine-tune whose grafts are made in memory, twice each: for digests, for loading.

    The base is read once more, for the alignment, and `reads` models for controls of full rank. Models that
    do not fit into the page cache are read again for each graft, as `evaluate_job` counts them.
    """
    merging = 2 * grafts * MERGE * _linear_weights(shape) / threads
    return replace(job, seconds=job.seconds + merging + (1 + reads) * _disk_seconds(shape, cluster))


def evaluated_shape(shape: ModelShape, cluster: Cluster, evaluation: EvaluationConfig) -> ModelShape:
    """The model as it is computed: in the dtype of the evaluation, else on GPUs its own, or float32."""
    dtype = evaluation.dtype or ("auto" if cluster.gpus_per_node else "float32")
    return shape if dtype == "auto" else shape.in_dtype(dtype)


def train_job(recipe: Recipe, shape: ModelShape, cluster: Cluster, threads: int) -> JobEstimate:
    """A whole training run, on the fewest GPUs that hold it: a power of two in one node, else whole nodes.

    A power of two because all ranks share each sequence, and heads and lengths must divide evenly.
    """
    work = executed_flops(recipe, shape, training_steps(recipe))
    hardware = Hardware.from_cluster(cluster, threads)
    seconds = hardware.compute_hours(work) * 3600
    if not cluster.gpus_per_node:
        held = _rank_bytes(recipe, shape, hardware, ranks=1, dtype=recipe.dtype or "float32")
        return JobEstimate(seconds, memory=2 * held + 2 * LEAST)
    gpus = _training_gpus(recipe, shape, hardware)
    nodes = ceil(gpus / cluster.gpus_per_node)
    memory = TRAINED * shape.parameters / nodes + 4 * LEAST
    return JobEstimate(seconds / gpus, memory, gpus, nodes)


def _training_gpus(recipe: Recipe, shape: ModelShape, hardware: Hardware) -> int:
    node = hardware.node_size
    inside = [1 << power for power in range(node.bit_length()) if 1 << power < node]
    counts = (*inside, *(node * nodes for nodes in range(1, MAX_NODES + 1)))
    for count in counts:
        held = _rank_bytes(recipe, shape, hardware, ranks=count, dtype=recipe.dtype or "bfloat16")
        if held <= FILL * hardware.memory:
            return count
    raise ConfigError(
        f"the training {recipe.name} does not fit on this cluster",
        expected=f"at most {FILL * hardware.memory / GB:.0f} GB a GPU, on up to {MAX_NODES} nodes",
        received=f"{held / GB:.0f} GB a GPU",
        remedy="train on shorter sequences, set activation_checkpointing, or correct the section `cluster`",
    )


def _rank_bytes(recipe: Recipe, shape: ModelShape, hardware: Hardware, *, ranks: int, dtype: str) -> float:
    plan = ParallelPlan(ranks, context=ranks, dtype=dtype)
    return max(cost.memory.total for cost in stage_costs(recipe, shape, hardware, plan))


def _training_jobs(study: ResolvedStudy, shape: ModelShape) -> dict[str, JobEstimate]:
    """The training of each model, every recipe read once; the number of nodes in the study has precedence."""
    recipes = {name: origin.recipe for name, origin in study.origins.items() if origin.recipe}
    jobs = {
        recipe: _with_nodes(
            train_job(load_recipe(Path(recipe)), shape, study.settings.cluster, study.settings.threads.train),
            study,
        )
        for recipe in sorted(set(recipes.values()))
    }
    return {name: jobs[recipe] for name, recipe in recipes.items()}


def _with_nodes(job: JobEstimate, study: ResolvedStudy) -> JobEstimate:
    launch, cluster = study.settings.training, study.settings.cluster
    if launch.nodes is None:
        return job
    if not cluster.gpus_per_node:
        return JobEstimate(job.seconds / launch.nodes, job.memory, nodes=launch.nodes)
    gpus = launch.nodes * (launch.processes or cluster.gpus_per_node)
    return JobEstimate(job.seconds * job.gpus / gpus, job.memory, gpus, launch.nodes)


def _linear_weights(shape: ModelShape) -> int:
    return sum(map(prod, shape.matrices.values()))


def _disk_seconds(shape: ModelShape, cluster: Cluster) -> float:
    """Seconds to read or write the model once."""
    return weight_bytes(shape) / GB / cluster.disk
