"""What every job of a study asks of the cluster: the study's own numbers put into the formulas."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from contextgraft.config.cluster import Cluster
from contextgraft.config.resolved_study import ResolvedStudy
from contextgraft.config.study import Evaluation
from contextgraft.config.training import load_recipe
from contextgraft.planning import slurm
from contextgraft.planning.model_shape import Shape, read_shape
from contextgraft.planning.slurm import Questions, Request

ASSUMED = Shape(30, 576, 1536, 9, 3, 64, 49152, tied=True)  # SmolLM2-135M, where a study names no shape


def shape_of(shape: str | None, base: str) -> Shape:
    """The shape that the study names, else that of a base in a folder, else a small model's."""
    if shape is not None:
        return read_shape(Path(shape))
    return read_shape(Path(base)) if (Path(base) / "config.json").is_file() else ASSUMED


def prompts(asked: Evaluation) -> Mapping[int, int]:
    """How many prompts of each length a model is given by all suites; skills are short beside them."""
    counts: Counter[int] = Counter()
    grids = len(asked.needle.kinds) * max(1, len(asked.needle.haystacks))
    for length in asked.needle.lengths:
        counts[length] += grids * asked.needle.samples * len(asked.needle.depths)
    if asked.ruler:
        for length in asked.ruler.lengths:
            counts[length] += asked.ruler.samples * len(asked.ruler.asked)
    if asked.perplexity:
        for length in asked.perplexity.lengths:
            counts[length] += asked.perplexity.documents
    if asked.divergence:
        counts[asked.divergence.length] += asked.divergence.prompts
    return dict(counts)


@dataclass(frozen=True)
class Demands:
    """Requests of a study's jobs: by rule, and of training by model."""

    cluster: Cluster
    rules: Mapping[str, Request]
    training: Mapping[str, Request]

    def launch(self, model: str, processes: int | None) -> tuple[int, int]:
        """Nodes of a training, and processes on each: one a GPU unless told otherwise."""
        asked = self.training[model]
        return asked.nodes, processes or max(1, asked.gpus // asked.nodes)

    def of(self, rule: str, model: str | None, attempt: int) -> dict[str, int | str | None]:
        """What a rule's job asks for at an attempt, in the words of the Slurm plugin."""
        first = self.training[model] if model is not None and rule == "train" else self.rules[rule]
        return slurm.slurm(first.again(attempt, self.cluster))


def training(study: ResolvedStudy, shape: Shape, cluster: Cluster) -> dict[str, Request]:
    """Requests of the models that are trained, each recipe read once."""
    recipes = {name: origin.recipe for name, origin in study.origins.items() if origin.recipe}
    threads = study.settings.threads.train
    requests = {
        recipe: slurm.train(shape, cluster, load_recipe(Path(recipe)).stages, threads)
        for recipe in sorted(set(recipes.values()))
    }
    together = study.settings.training
    if together.nodes is not None:
        gpus = together.nodes * (together.processes or cluster.gpus_per_node) if cluster.gpus_per_node else 0
        requests = {
            recipe: replace(asked, nodes=together.nodes, gpus=gpus) for recipe, asked in requests.items()
        }
    return {name: requests[recipe] for name, recipe in recipes.items()}


def demands(study: ResolvedStudy, shape: Shape, cluster: Cluster) -> Demands:
    """All requests of a study; ConfigError where no node of the cluster can hold what is asked."""
    settings = study.settings
    threads = settings.threads
    asked = prompts(settings.evaluation)
    grafts = len(settings.donor_seeds) * (len(settings.ranks) + 1)  # a control row for each seed
    merge = slurm.merge(shape, cluster, threads.merge)
    extract = slurm.EXTRACTIONS[settings.extraction.backend].request

    def evaluate(models: int) -> Request:
        return slurm.evaluate(shape, cluster, Questions(asked, models), threads.evaluate)

    return Demands(
        cluster=cluster,
        rules={
            "fetch": slurm.fetch(shape, cluster),
            "extract": extract(shape, cluster, settings.ranks, threads.extract),
            "merge": merge,
            "theta_only": merge,
            "verify": merge,
            "evaluate": evaluate(1 + grafts),
            "evaluate_base": evaluate(1 + len(settings.donor_seeds)),
            "align": merge,
            "report": slurm.request(cluster, seconds=60),
        },
        training=training(study, shape, cluster),
    )
