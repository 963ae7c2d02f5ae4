from pathlib import Path
from typing import Any

import pytest

from contextgraft.config import resolved_study
from contextgraft.config.base import read_yaml
from contextgraft.config.resolved_study import Origin, load_study, referenced_files
from contextgraft.errors import ConfigError

KINDS = ("single", "chain")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    for name in ("donor.yaml", "needle.yaml", "tune.yaml", "own.yaml", "skill.jsonl"):
        Path(name).write_text("")
    Path("sheet.tsv").write_text(
        "name\tsource\trevision\tneedle\tskill\n"
        "plain\tdemo:plain\tabc\t\t\n"
        "trained\ttrain:tune.yaml\t\town.yaml\tskill.jsonl\n"
    )
    needle = {"format": "needle.yaml", "lengths": [8], "depths": [0], "samples": 1, "seed": 0}
    return {
        "study": "s",
        "base": "demo:base",
        "donor": {"train": "donor.yaml"},
        "donor_seeds": [3, 5],
        "fine_tunes": "sheet.tsv",
        "ranks": [1],
        "evaluation": {"needle": needle, "skill": {"samples": 1}},
    }


def test_every_model_has_its_origin(config: dict[str, Any]) -> None:
    assert load_study(config, "c", KINDS).origins == {
        "base": Origin(source="demo:base"),
        "donor-s3": Origin(recipe="donor.yaml", seed=3),
        "donor-s5": Origin(recipe="donor.yaml", seed=5),
        "plain": Origin(source="demo:plain@abc"),
        "trained": Origin(recipe="tune.yaml"),
    }


def test_a_fetched_donor_has_a_source(config: dict[str, Any]) -> None:
    fetched = {**config, "donor": {"source": "demo:long"}, "donor_seeds": [1]}
    assert load_study(fetched, "c", KINDS).origins["donor-s1"] == Origin(source="demo:long")


def test_a_fine_tune_is_evaluated_in_its_own_format_if_it_has_one(config: dict[str, Any]) -> None:
    study = load_study(config, "c", KINDS)
    assert [study.needle_format(name) for name in ("plain", "trained")] == ["needle.yaml", "own.yaml"]


@pytest.mark.parametrize("gone", ["donor.yaml", "needle.yaml", "tune.yaml", "own.yaml", "skill.jsonl"])
def test_a_file_that_is_not_there_is_named(config: dict[str, Any], gone: str) -> None:
    Path(gone).unlink()
    with pytest.raises(ConfigError, match=f"received {gone}"):
        load_study(config, "c", KINDS)


def test_an_unknown_needle_kind_is_one_line_with_file_and_known_kinds(
    config: dict[str, Any],
) -> None:
    config["evaluation"]["needle"]["kinds"] = ["single", "chian"]
    with pytest.raises(ConfigError) as error:
        load_study(config, "study.yaml", KINDS)
    assert str(error.value) == (
        "study.yaml: evaluation.needle.kinds: unknown kind of question; expected one of single, chain; "
        "received chian; did you mean chain?"
    )


def test_companions_are_the_files_that_a_recipe_names_and_those_that_they_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "data: [{kind: needle, format: deep/needle.yaml}, {text: moby_dick_train}]\nname: recipe.yaml\n"
    )
    (tmp_path / "deep/needle.yaml").write_text("haystack: text.txt\nkeys: [a, b]\n")
    (tmp_path / "deep/text.txt").write_text("a: [")
    found = [path.relative_to(tmp_path).as_posix() for path in referenced_files(recipe)]
    assert found == ["deep/needle.yaml", "deep/text.txt", "recipe.yaml"]


def test_a_long_text_of_a_format_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "needle.yaml").write_text("question: " + "数" * 200)  # a name of 600 bytes
    assert referenced_files(tmp_path / "needle.yaml") == (tmp_path / "needle.yaml",)


@pytest.mark.parametrize(("skill", "file"), [("a.jsonl", "a.jsonl"), ("tasks/a.yaml:acc", "tasks/a.yaml")])
def test_skills_of_all_fine_tunes_are_files_that_are_there(
    config: dict[str, Any], skill: str, file: str
) -> None:
    skills = {"skills": [skill, "gsm8k:exact_match"], "trust_tasks": True}
    study = {**config, "evaluation": {**config["evaluation"], "skill": skills}}
    with pytest.raises(ConfigError, match=rf"evaluation.skill.skills names a file .*received {file};"):
        load_study(study, "study.yaml", ["single"])


def test_long_paths_in_a_study_are_one_line(config: dict[str, Any]) -> None:
    evaluation = {**config["evaluation"], "text": "x" * 5000, "ruler": {"qa_1": "x" * 5000}}
    with pytest.raises(ConfigError, match=r"evaluation.ruler.qa_1 names a file that is not there") as error:
        load_study({**config, "evaluation": evaluation}, "c", KINDS)
    assert len(str(error.value)) < 2000


def test_no_fine_tune_has_the_name_of_a_graft(config: dict[str, Any]) -> None:
    names = ("tune", "tune-s3-r1", "tune-s5-r1", "other-s3-r1", "tune-s3-theta-only")
    Path("sheet.tsv").write_text("name\tsource\n" + "".join(f"{name}\tdemo:a\n" for name in names))
    with pytest.raises(ConfigError) as error:
        load_study(config, "c", KINDS)
    assert "'tune-s3-r1' is the label of a graft of 'tune'" in str(error.value)
    assert "'tune-s5-r1' is the label" in str(error.value)
    assert "'tune-s3-theta-only' is the label" in str(error.value)
    assert "other-s3" not in str(error.value)


def test_names_that_no_graft_of_the_study_has(config: dict[str, Any]) -> None:
    """Those of other seeds, ranks and controls, and what only looks like one."""
    names = ("tune", "tune-s2-large", "tune-s1-r1", "tune-s3-r2", "tune-s3-yarn", "tune-s3-r1-v2")
    Path("sheet.tsv").write_text("name\tsource\n" + "".join(f"{name}\tdemo:a\n" for name in names))
    assert tuple(load_study(config, "c", KINDS).targets) == names


def test_a_format_that_hundreds_share_is_read_once(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("shared.yaml").write_text("haystack: moby_dick\n")
    rows = "".join(f"tune{number}\tdemo:a\tshared.yaml\n" for number in range(30))
    Path("sheet.tsv").write_text(f"name\tsource\tneedle\n{rows}")
    study = load_study(config, "c", KINDS)
    read: list[Path] = []

    def counted(path: Path) -> Any:
        read.append(path)
        return read_yaml(path)

    monkeypatch.setattr(resolved_study, "read_yaml", counted)
    files = {tuple(study.question_files(f"tune{number}")) for number in range(30)}
    assert len(files) == 1
    assert "shared.yaml" in files.pop()
    assert read == [Path("shared.yaml")]
