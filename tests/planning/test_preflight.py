"""What cannot work is reported before the first job, all at once."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from contextgraft.checkpoint.model_folder import open_model
from contextgraft.config.resolved_study import load_study
from contextgraft.errors import ConfigError, SeveralMistakes
from contextgraft.evaluation.suites.lm_eval import task
from contextgraft.planning.preflight import check_study
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS
from contextgraft.rope import settings as rope_settings
from contextgraft.sources.fetch import fetch
from contextgraft.sources.hub.client import Hub

DEMO = Path(__file__).parents[2] / "config/demo"
NEEDLE = {"format": str(DEMO / "needle_base.yaml"), "lengths": [128], "samples": 1}
STUDY: dict[str, Any] = {
    "study": "s",
    "base": "demo:base",
    "donor": {"source": "demo:facts", "theta": 10000, "max_positions": 128},
    "fine_tunes": "sheet.tsv",
    "ranks": [1],
    "evaluation": {"needle": NEEDLE},
}


def check(*lines: str, base_evaluated: bool = False, **changes: Any) -> None:
    """Check the study with these changes, and with these lines of the sheet."""
    Path("sheet.tsv").write_text("\n".join(["name\tsource\tskill", "a\tdemo:facts\t", *lines]))
    study = load_study(STUDY | changes, "my.yaml", NEEDLE_KINDS)
    check_study(study, Path("models"), Hub(), base_evaluated=base_evaluated)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_study_that_can_work_passes() -> None:
    check()


def test_lengths_that_no_prompt_fits() -> None:
    short = {"needle": NEEDLE | {"lengths": [128, 4]}}
    with pytest.raises(ConfigError, match=r"my\.yaml: evaluation: .*does not fit the length; expected at"):
        check(evaluation=short)
    check(evaluation=short, base_evaluated=True)


def test_donors_without_what_was_promised_and_sources_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match=r"my\.yaml: donor\.theta: .*expected 99; received 10000"):
        check(donor={"source": "demo:facts", "theta": 99}, base_evaluated=True)
    with pytest.raises(ConfigError, match=r"my\.yaml: donor\.source: owner/donor: .*did you mean hf:owner"):
        check(donor={"source": "owner/donor"}, base_evaluated=True)
    check("gone\tmodels/gone", base_evaluated=True)  # one fine-tune does not stop a study


SHORT = {"needle": NEEDLE, "controls": ["short_donor"]}


@pytest.mark.parametrize("donor_is_trained", [True, False])
def test_a_short_donor_is_trained_to_the_donors_theta(donor_is_trained: bool) -> None:
    recipe = yaml.safe_load((DEMO / "donor.yaml").read_text())
    long, short = recipe["stages"], [{**recipe["stages"][-1], "theta": 500.0}]
    for name, stages in (("long", long), ("short", short)):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe | {"stages": stages}))
    donor = {"train": "long.yaml"} if donor_is_trained else {"source": "demo:facts"}
    given: dict[str, Any] = {"donor": donor, "evaluation": SHORT, "base_evaluated": True}
    with pytest.raises(ConfigError, match=r"my\.yaml: short_donor: its theta is another .*received 500"):
        check(**given, short_donor={"train": "short.yaml"})
    same = {"train": "long.yaml"} if donor_is_trained else "demo:style"
    check(**given, short_donor=same)


def test_a_model_that_was_fetched_from_another_source_is_not_read() -> None:
    fetch("demo:facts", Path("models/donor-s1"))
    theta = rope_settings.read(open_model(Path("models/donor-s1")).config, Path()).theta
    config = Path("models/donor-s1/config.json")
    changed = {**json.loads(config.read_text()), "rope_theta": theta + 1}
    changed.pop("rope_parameters", None)
    config.write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match=r"received 10001 in models/donor-s1"):
        check(base_evaluated=True)
    check(donor=STUDY["donor"] | {"source": "demo:style"}, base_evaluated=True)


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.slow)])
def tasks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some names of tasks; or all of lm-eval, whose ten thousand files it reads in twenty seconds."""
    if request.param == "some":
        monkeypatch.setattr(task, "task_names", lambda: frozenset({"gsm8k", "hellaswag", "mmlu"}))


@pytest.mark.usefixtures("tasks")
def test_tasks_skills_and_recipes_are_reported_together() -> None:
    Path("empty.jsonl").touch()
    Path("recipe.yaml").write_text(yaml.safe_dump({"name": "d", "stages": []}))
    with pytest.raises(SeveralMistakes) as error:
        check(
            "b\tdemo:facts\tgsm88k", "c\tdemo:facts\tempty.jsonl, gsm8k:acc", donor={"train": "recipe.yaml"}
        )
    mistakes = [str(mistake) for mistake in error.value.mistakes]
    assert sum(line.startswith("recipe.yaml: ") for line in mistakes) >= 1
    assert [line for line in mistakes if not line.startswith("recipe.yaml: ")] == [
        "sheet.tsv: b: skill: lm-evaluation-harness has no task of this name; expected gsm8k, for example; "
        "received gsm88k; correct the name, or give a file (.jsonl)",
        "empty.jsonl: the skill file is empty",
    ]


def test_fetched_models_are_read_where_they_are() -> None:
    Path("models/base").mkdir(parents=True)
    Path("models/base/contextgraft.json").write_text(json.dumps({"source": STUDY["base"]}))
    with pytest.raises(ConfigError, match=r"my\.yaml: base: models/base"):
        check()
