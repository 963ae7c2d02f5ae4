"""Jobs of a study: their memory, time and GPUs, and a request for every rule of the workflow."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from contextgraft.config.cluster import Cluster
from contextgraft.config.evaluation import StudyEvaluation
from contextgraft.config.resolved_study import ResolvedStudy, load_study
from contextgraft.config.server.backend import ServerBackend
from contextgraft.config.training import Recipe
from contextgraft.errors import ConfigError
from contextgraft.planning import jobs
from contextgraft.planning.memory import FILL, held_bytes
from contextgraft.planning.shapes.model_shape import ModelShape, read_model_shape
from contextgraft.planning.slurm import StudyRequests, study_requests
from contextgraft.planning.study import plan_study, study_shape
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS

from ..training.conftest import RECIPE
from .shapes import LLAMA_8B, LLAMA_70B, SMALL, shape_of

ROOT = Path(__file__).parents[2]
TINY = shape_of(SMALL)
ASSUMED = read_model_shape("smollm2-135m")
GPUS = Cluster(gpus_per_node=8)


def recipe(length: int, steps: int = 1, *, recompute: bool = True) -> Recipe:
    """A recipe of one stage, one sequence a step."""
    stages = [{"length": length, "steps": steps, "tokens": length}]
    return Recipe.model_validate(
        {**RECIPE, "stages": stages, "replay": {}, "activation_checkpointing": recompute}
    )


def prompts(length: int) -> StudyEvaluation:
    """One needle prompt of a length."""
    needle = {"format": "x.yaml", "lengths": [length], "depths": [50], "samples": 1, "seed": 1}
    return StudyEvaluation.model_validate({"needle": needle, "skill": {"samples": 1}})


def demo_study(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> ResolvedStudy:
    """The demo's study with other settings."""
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    return load_study(config | changes, "config/config.yaml", NEEDLE_KINDS)


def demo(monkeypatch: pytest.MonkeyPatch, shape: ModelShape = ASSUMED, **cluster: Any) -> StudyRequests:
    return study_requests(demo_study(monkeypatch, cluster=cluster), shape)


@pytest.mark.parametrize(
    ("controls", "reads"),
    [
        ([], 0),
        (["yarn", "random"], 0),
        (["whole_delta"], 1 + 2 + 4 * 2),
        (["short_donor"], 1 + 1 + 4),
        (["whole_delta", "short_donor"], 1 + 3 + 4 * 3),
    ],
)
def test_controls_of_full_rank_read_models(
    controls: list[str], reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two donors and one short donor: once each for digests, and in pairs for each row, twice."""
    evaluation = yaml.safe_load((ROOT / "config/config.yaml").read_text())["evaluation"]
    short = {"short_donor": "demo:style"} if "short_donor" in controls else {}
    changes = {"donor_seeds": [1, 2], "evaluation": evaluation | {"controls": controls}, **short}
    study = demo_study(monkeypatch, **changes)
    assert jobs.full_rank_reads(study) == reads
    models = jobs.models_of_target(study)
    job = jobs.evaluate_job(study.settings.evaluation, TINY, study.settings.cluster, models, 1)
    plain, read = (
        jobs.with_grafts(job, TINY, study.settings.cluster, models - 1, 1, reads=number).seconds
        for number in (0, reads)
    )
    assert (read > plain) == (reads > 0)


def test_streaming_jobs_take_the_same_memory_whatever_the_model() -> None:
    for shape in (TINY, LLAMA_8B, LLAMA_70B):
        streaming = [
            jobs.fetch_job(shape, GPUS),
            jobs.extract_job(shape, GPUS, [32], threads=4),
            jobs.merge_job(shape, GPUS, threads=4),
        ]
        assert {(job.memory, job.gpus, job.nodes) for job in streaming} == {(4e9, 0, 1)}


def test_time_grows_with_the_model_and_with_the_rank() -> None:
    small = jobs.extract_job(LLAMA_8B, GPUS, [32], threads=4)
    large = jobs.extract_job(LLAMA_70B, GPUS, [32], threads=4)
    assert small.seconds < large.seconds
    assert large.seconds < jobs.extract_job(LLAMA_70B, GPUS, [1024], threads=4).seconds


@pytest.mark.parametrize(
    ("shape", "length", "gpus"),
    [(LLAMA_8B, 8192, 1), (LLAMA_8B, 2**20, 3), (LLAMA_70B, 8192, 2), (LLAMA_70B, 2**20, 7)],
)
def test_evaluation_takes_the_gpus_that_hold_weights_and_cache(
    shape: ModelShape, length: int, gpus: int
) -> None:
    """16.1 + 1.1, 16.1 + 137.4, 141.1 + 2.7 and 141.1 + 343.6 GB, in 72 GB of each."""
    job = jobs.evaluate_job(prompts(length), shape, GPUS, models=1, threads=1)
    assert (job.gpus, job.nodes) == (gpus, 1)
    assert job.gpus * FILL * GPUS.gpu_memory * 1e9 >= held_bytes(shape, length)
    assert (job.gpus - 1) * FILL * GPUS.gpu_memory * 1e9 < held_bytes(shape, length)


def test_several_gpus_that_compute_layers_in_turn_take_the_time_of_one() -> None:
    """2 * 70.5e9 * 2**20 and attention 2 * 80 * 64 * 128 * 2**40 operations at the speed of one GPU."""
    one = Cluster(gpus_per_node=8, gpu_memory=1000)
    several, single = (
        jobs.evaluate_job(prompts(2**20), LLAMA_70B, cluster, models=1, threads=1) for cluster in (GPUS, one)
    )
    assert (several.gpus, single.gpus) == (7, 1)
    assert several.seconds == single.seconds
    least = (2 * 69e9 * 2**20 + 2 * 80 * 64 * 128 * 2**40) / (GPUS.gpu_teraflops * 1e12)
    assert several.seconds > least


def served(length: int, gpus: int) -> StudyEvaluation:
    """The same prompt, by vLLM on so many GPUs."""
    plain = prompts(length)
    return plain.model_copy(update={"backend": ServerBackend(serve="vllm", tensor_parallel=gpus)})


def test_the_gpus_of_vllm_share_the_work_and_those_of_layers_wait() -> None:
    in_turn, shared = (
        jobs.evaluate_job(evaluation, LLAMA_70B, GPUS, models=1, threads=1)
        for evaluation in (prompts(2**20), served(2**20, 8))
    )
    assert ((in_turn.gpus, in_turn.busy), (shared.gpus, shared.busy)) == ((7, 1), (8, 8))
    disk = 141e9 / (GPUS.disk * 1e9)  # one pass over the model in turn, three with a server
    assert shared.seconds - 3 * disk == pytest.approx((in_turn.seconds - disk) / 8, rel=0.01)


@pytest.mark.parametrize(
    ("gpus", "words"),
    [(4, r"tensor_parallel of 7 or more; received 4"), (16, "at most 8, .* received 16 for")],
)
def test_a_server_with_too_few_gpus_or_more_than_a_node_is_refused(gpus: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        jobs.evaluate_job(served(2**20, gpus), LLAMA_70B, GPUS, models=1, threads=1)


def test_evaluation_that_no_node_can_hold_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="need the memory of 22 GPUs"
    ):  # 141.1 + 1374.4 GB, in 72 GB of each
        jobs.evaluate_job(prompts(2**22), LLAMA_70B, GPUS, models=1, threads=1)


@pytest.mark.parametrize(("shape", "gpus", "nodes"), [(TINY, 1, 1), (LLAMA_8B, 8, 1), (LLAMA_70B, 40, 5)])
def test_training_takes_whole_nodes_beyond_one(shape: ModelShape, gpus: int, nodes: int) -> None:
    """One sequence of 524,288 tokens, in 72 GB of each GPU.

    8B: weights, gradients and moments 128.5 GB, activations 234.1, ring 25.8, divided by the ranks, and on
    each the gathered layers, 5.1 GB, and the logits, 4.2: 106 GB on 4, 58 on 8.
    70B: 1128.9 + 880.5 + 25.8 GB divided, 11.8 + 6.3 GB on each: 82 GB on 32, 69 on 40.
    """
    job = jobs.train_job(recipe(2**19), shape, GPUS, threads=1)
    assert (job.gpus, job.nodes) == (gpus, nodes)


def test_a_recipe_that_keeps_its_activations_takes_more_gpus() -> None:
    kept = jobs.train_job(recipe(2**17, recompute=False), LLAMA_8B, GPUS, threads=1)
    recomputed = jobs.train_job(recipe(2**17), LLAMA_8B, GPUS, threads=1)
    assert kept.gpus > recomputed.gpus
    assert recomputed.seconds * recomputed.gpus == pytest.approx(4 / 3 * kept.seconds * kept.gpus)


def test_training_that_no_number_of_gpus_can_hold_is_refused() -> None:
    small = Cluster(gpus_per_node=8, gpu_memory=8)
    with pytest.raises(ConfigError, match=r"the training tiny does not fit .* expected at most 7 GB a GPU"):
        jobs.train_job(recipe(2**17), LLAMA_70B, small, threads=1)


def test_without_gpus_nothing_requests_one() -> None:
    plain = Cluster()
    for job in (
        jobs.train_job(recipe(64, steps=2), TINY, plain, threads=1),
        jobs.evaluate_job(prompts(64), TINY, plain, models=3, threads=1),
    ):
        assert job.gpus == 0


def test_every_rule_of_the_workflow_has_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    files = (ROOT / "workflow/rules").glob("*.smk")
    named = r"^(?:rule|use rule \w+ as) (\w+)(?::| with)"
    rules = {name for path in files for name in re.findall(named, path.read_text(), re.MULTILINE)}
    requests = demo(monkeypatch)
    assert {*requests.rules, "train"} == rules
    assert "donor-s1" in requests.training


def test_a_job_requests_its_own_numbers_and_more_when_it_is_submitted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = demo(monkeypatch, LLAMA_70B, gpus_per_node=8)
    first = requests.resources("extract", None, 1)
    again = requests.resources("extract", None, 2)
    assert (first["mem_mb"], again["mem_mb"]) == (4000, 8000)
    assert again["runtime"] == 2 * requests.rules["extract"].minutes
    # 16 bytes a weight, 1128.9 GB, divided by the ranks, and 18.1 GB on each: 88.7 GB on 16, 65.2 on 24.
    trained = requests.resources("train", "donor-s1", 1)
    assert (trained["nodes"], trained["gres"], trained["gpu"]) == (3, "gpu:8", None)


def test_prompts_that_no_node_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="need the memory of"):
        demo(monkeypatch, LLAMA_70B, gpus_per_node=1)


def test_the_shape_is_the_named_one_or_the_bases_or_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    ranks = [4]  # its modules have sides of 16
    local = demo_study(monkeypatch, base=str(tmp_path), shape=None, ranks=ranks)
    named = demo_study(monkeypatch, shape=str(tmp_path), ranks=ranks)
    assert study_shape(local).layers == study_shape(named).layers == 2
    assert study_shape(demo_study(monkeypatch, shape=None)) == ASSUMED
    assert (ASSUMED.parameters, ASSUMED.tied) == (134_515_008, True)  # the published SmolLM2-135M


def test_nodes_and_processes_of_a_training_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"nodes": 2, "processes": 3}
    with_gpus = study_requests(
        demo_study(monkeypatch, training=training, cluster={"gpus_per_node": 4}), ASSUMED
    )
    resources = with_gpus.resources("train", "donor-s1", 1)
    assert (resources["nodes"], resources["gres"]) == (2, "gpu:3")
    assert with_gpus.launch("donor-s1", 3) == (2, 3)
    without = study_requests(demo_study(monkeypatch, training=training), ASSUMED)
    resources = without.resources("train", "donor-s1", 1)
    assert (resources["nodes"], resources["gres"], resources["tasks_per_gpu"]) == (2, None, None)


def test_long_skills_of_the_sheet_are_counted_for_fine_tunes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    values = demo_study(monkeypatch).settings.evaluation.prompts
    section = {"lengths": [1024], "samples": 8, "texts": 2}
    short = demo_study(monkeypatch, evaluation=values)
    long = demo_study(monkeypatch, evaluation={**values, "long_skill": section})
    without, having = (jobs.study_jobs(study, TINY).rules for study in (short, long))
    assert having["evaluate"].seconds > without["evaluate"].seconds
    assert having["evaluate_base"] == without["evaluate_base"]
    costs = plan_study(long).costs
    (counted,) = (cost for cost in costs if cost.suite == "long_skill")
    assert counted.prompts == 8 * len(long.targets) * jobs.models_of_target(long)


def test_a_study_of_short_skills_alone_has_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = demo_study(monkeypatch).settings.evaluation.prompts
    study = demo_study(monkeypatch, evaluation={**evaluation, "suites": ["skill"]})
    assert jobs.study_jobs(study, TINY).rules["evaluate"].seconds > 0
