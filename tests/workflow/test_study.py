"""The object behind the rules: paths, resources and arguments of a study."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from contextgraft.errors import ConfigError, OutputError, SeveralMistakes
from contextgraft.workflow import StudyPaths, StudyWorkflow, chart_labels, chart_subcategory

from .conftest import STUDY, StudyFolder

EVALUATION: Any = STUDY["evaluation"]


@pytest.fixture
def study(fresh: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that resolves the tiny study with changed keys, in its folder."""
    monkeypatch.chdir(fresh.folder)

    def load(**changes: Any) -> StudyWorkflow:
        return StudyWorkflow.load({**STUDY, **changes}, "config.yaml")

    return SimpleNamespace(folder=fresh, load=load)


def test_every_file_of_a_study_is_named_once(study: Any) -> None:
    tiny = study.load(donor_seeds=[1, 2])
    files = [
        *tiny.models(), *tiny.adapters(), *tiny.grafts(), *tiny.graft_records(), *tiny.alignments(),
        *tiny.verdicts(), *tiny.samples(), *tiny.recommendations(), tiny.paths.page,
    ]  # fmt: skip
    assert len(set(files)) == len(files)
    assert not [file for file in files if "{" in file]
    assert tiny.donors() == [f"data/tiny/models/donor-s{seed}/contextgraft.json" for seed in (1, 2)]
    assert tiny.adapters()[:2] == [f"data/tiny/adapters/s1/r{rank}/contextgraft.json" for rank in (1, 4)]
    assert tiny.samples() == [f"results/tiny/samples/{name}.parquet" for name in ("base", "tune")]


def test_models_are_fetched_or_trained(study: Any) -> None:
    study.folder.sheet("tune\tmodels/tune", "own\ttrain:config/tiny/tune.yaml")
    tiny = study.load()
    assert tiny.fetched_models() == ["base", "tune"]
    assert tiny.trained_models() == ["donor-s1", "own"]
    assert (tiny.source("tune"), tiny.recipe("own")) == ("models/tune", "config/tiny/tune.yaml")
    assert tiny.recipe_files("own") == ["config/tiny/skill.jsonl", "config/tiny/tune.yaml"]
    assert (tiny.seed_arguments("donor-s1"), tiny.seed_arguments("own")) == (["--seed", "1"], [])
    assert tiny.refusal_arguments("tune", "data/x/contextgraft.json") == ["--refusal", "data/x"]
    assert tiny.refusal_arguments("base", "data/x/contextgraft.json") == []


def test_only_grafts_that_are_kept_are_outputs(study: Any) -> None:
    graft = "data/tiny/grafts/s1/tune/{}/contextgraft.json"
    kinds = {"all": ["r1", "r4", "theta-only"], "recommended": ["recommended"], "none": []}
    for keep, expected in kinds.items():
        tiny = study.load(keep_grafts=keep)
        assert tiny.grafts() == [graft.format(kind) for kind in expected]
        assert tiny.verdicts() == [f"results/tiny/verified/s1/tune/{kind}.json" for kind in expected]
        assert len(tiny.graft_records()) == 3  # of all that are evaluated
    assert study.load(keep_grafts=True).grafts() == study.load(keep_grafts="all").grafts()


def test_a_graft_is_merged_from_its_adapter_or_from_the_recommended_one(study: Any) -> None:
    tiny = study.load()
    r1, r4 = ("--adapter=data/tiny/adapters/s1/r1", "--adapter=data/tiny/adapters/s1/r4")
    assert tiny.merge_arguments(1, "tune", "r4") == [r4]
    assert tiny.merge_arguments(1, "tune", "theta-only") == [r1, "--scale=0"]
    recommended = "results/tiny/recommended/tune.json"
    assert tiny.merge_arguments(1, "tune", "recommended") == [r1, r4, f"--recommended={recommended}"]
    assert tiny.graft_recommendation("tune", "recommended") == [recommended]
    assert tiny.graft_recommendation("tune", "r4") == []


def test_models_are_evaluated_under_their_labels(study: Any) -> None:
    tiny = study.load()
    assert tiny.evaluated_target("tune") == "tune=data/tiny/models/tune"
    words = tiny.graft_arguments("tune")
    assert words == [
        "--adapter=tune-s1-r1=data/tiny/adapters/s1/r1",
        "--adapter=tune-s1-r4=data/tiny/adapters/s1/r4",
        "--control=tune-s1-theta-only=theta_only:tune-s1-r1",
        *(f"--record=tune-s1-{kind}=results/tiny/grafts/s1/tune/{kind}" for kind in tiny.graft_kinds),
        "--base=data/tiny/models/base",
        "--alignment=tune-s1-r4=results/tiny/alignment/s1/tune.parquet",
    ]
    assert tiny.evaluated_base_models() == [
        "base=data/tiny/models/base", "donor-s1=data/tiny/models/donor-s1"
    ]  # fmt: skip


def test_arguments_are_words(study: Any) -> None:
    """A word with a space or a quote is one argument of the command."""
    tiny = study.load(note="Tiny 'n' random; $(date)")
    words = tiny.report_arguments()
    assert words[-1] == "--note=Tiny 'n' random; $(date)"
    assert shlex.split(shlex.join(words)) == words
    assert tiny.extract_arguments() == ["--rank=1", "--rank=4"]


def test_a_fine_tune_is_evaluated_on_its_skills_too(study: Any) -> None:
    tiny = study.load()
    evaluated, base = (yaml.safe_load(tiny.evaluation_yaml(name)) for name in ("tune", None))
    assert evaluated["skill"]["skills"] == ["config/tiny/skill.jsonl"]
    assert "skill" not in base
    assert evaluated["needle"] == base["needle"]
    assert "config/tiny/skill.jsonl" in tiny.question_files("tune")
    assert "config/tiny/skill.jsonl" not in tiny.question_files()


def test_a_reference_of_long_perplexity_is_a_file_of_the_evaluation(study: Any) -> None:
    def files(reference: str) -> list[str]:
        section = {"lengths": [32], "short": 16, "reference": reference}
        tiny: StudyWorkflow = study.load(evaluation={**EVALUATION, "long_perplexity": section})
        return tiny.reference_files

    assert files("data/tiny/models/donor-s1") == ["data/tiny/models/donor-s1/contextgraft.json"]
    assert {"models/long/config.json", "models/long/model.safetensors"} <= set(files("models/long"))
    with pytest.raises(ConfigError, match="without a model"):
        files("models/nothing")
    assert study.load().reference_files == []


def test_base_and_donors_have_no_suites_of_skills(study: Any) -> None:
    tiny = study.load(evaluation={**EVALUATION, "suites": ["needle", "skill"]})
    base, evaluated = (yaml.safe_load(tiny.evaluation_yaml(name)) for name in (None, "tune"))
    assert (base["suites"], evaluated["suites"]) == (["needle"], ["needle", "skill"])


def test_models_are_run_on_the_device_of_the_cluster(study: Any) -> None:
    assert study.load().device_arguments() == []
    assert study.load(cluster={"device": "cuda", "gpus_per_node": 1}).device_arguments()[:2] == [
        "--device",
        "cuda",
    ]


def test_resources_grow_with_the_attempt(study: Any) -> None:
    tiny = study.load(cluster={"gpus_per_node": 4})
    first, second = (tiny.resources("evaluate", None, attempt) for attempt in (1, 2))
    assert tuple(first) == tiny.resource_names
    assert second["mem_mb"] > first["mem_mb"]
    assert tiny.resources("train", "donor-s1", 1)["mem_mb"]


def test_a_training_of_several_processes_has_a_launcher(study: Any) -> None:
    assert study.load().launcher("donor-s1") == ""
    several = study.load(cluster={"gpus_per_node": 4}, training={"nodes": 2, "processes": 2})
    assert several.launcher("donor-s1") == "scripts/slurm-torchrun.sh 2 2 1"


def test_a_full_disk_is_an_error(study: Any) -> None:
    tiny = study.load()
    tiny.check_disk(10**15)
    with pytest.raises(OutputError, match=r"the disk is too small.*received 0; keep_grafts: none"):
        tiny.check_disk(0)


def test_a_wrong_key_is_an_error(study: Any) -> None:
    with pytest.raises(ConfigError, match=r"config.yaml: .*'rnaks'"):
        study.load(rnaks=[1])


def test_paths_are_below_data_and_results() -> None:
    paths = StudyPaths("x")
    patterns = {*vars(paths).values(), paths.log("a"), paths.benchmark("a")} - {paths.lock}
    assert {Path(pattern).parts[:2] for pattern in patterns} == {("data", "x"), ("results", "x")}
    assert Path(paths.lock).parts[0] == ".snakemake"  # next to Snakemake's own state, kept by nobody


@pytest.mark.parametrize(
    ("chart", "kind", "subject"),
    [
        ("matrix", "Fine-tunes by rank", "all fine-tunes"),
        ("effect_of_rank_zh", "Needles and skill by rank", "zh"),
        ("heatmap_base_and_donor_base", "Needles by length and depth", "base and donor base"),
        ("energy_by_layer", "Energy of the delta", "layer"),
    ],
)
def test_a_chart_has_a_title_and_a_subject(chart: str, kind: str, subject: str) -> None:
    assert chart_subcategory(chart) == kind
    assert chart_labels(chart) == {"chart": kind, "subject": subject}


def test_a_study_names_its_control_rows_and_scales(study: Any) -> None:
    names = ["yarn", "old_theta", "whole_delta", "short_donor"]
    evaluation = {**EVALUATION, "controls": names, "scales": [0.8]}
    tiny = study.load(donor_seeds=[1, 2], evaluation=evaluation, short_donor="models/other")
    words = tiny.graft_arguments("tune")
    assert [word for word in words if word.startswith("--scale")] == ["--scale=1.0", "--scale=0.8"]
    assert [word.partition("=")[2] for word in words if word.startswith("--control")] == [
        "tune-s1-theta-only=theta_only:tune-s1-r1", "tune-s2-theta-only=theta_only:tune-s2-r1",
        "tune-s1-yarn=yarn:tune-s1-r1",  # the same for every donor
        "tune-s1-old-theta=old_theta:tune-s1-r1", "tune-s2-old-theta=old_theta:tune-s2-r1",
        "tune-s1-whole-delta=whole_delta:tune-s1-r1", "tune-s2-whole-delta=whole_delta:tune-s2-r1",
        "tune-s1-short-donor=short_donor:tune-s1-r1",
    ]  # fmt: skip
    models = [f"data/tiny/models/{name}" for name in ("donor-s1", "donor-s2", "short-donor")]
    assert [word for word in words if "donor=" in word and "--control" not in word] == [
        f"--donor={models[0]}", f"--donor={models[1]}", f"--short-donor={models[2]}"
    ]  # fmt: skip
    assert tiny.control_models() == [f"{folder}/contextgraft.json" for folder in models]
    assert tiny.source("short-donor") == "models/other"
    assert "controls" not in tiny.evaluation_yaml("tune")
    assert len(tiny.graft_records()) == 2 * 3  # controls other than theta only have none
    trained = study.load(evaluation=evaluation, short_donor={"train": "config/tiny/donor.yaml"})
    assert trained.seed_arguments("short-donor") == ["--seed", "1"]


def test_wrong_control_rows_are_reported_at_once(study: Any) -> None:
    wrong = {**EVALUATION, "controls": ["yarn", "yarm"], "scales": [0, 1]}
    with pytest.raises(SeveralMistakes) as info:
        study.load(evaluation=wrong, ranks=[])
    text = str(info.value)
    assert "evaluation.controls.1" in text
    assert "evaluation.scales.0" in text
    assert "ranks" in text
    named = {**EVALUATION, "controls": ["short_donor"]}
    with pytest.raises(ConfigError, match="give its model as the key short_donor"):
        study.load(evaluation=named)
    with pytest.raises(ConfigError, match="add short_donor to evaluation"):
        study.load(short_donor="models/other")
