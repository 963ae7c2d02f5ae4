from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from contextgraft.config.base import validate
from contextgraft.config.json_schema import schema_text
from contextgraft.config.resolved_study import load_study
from contextgraft.config.study import StudyConfig
from contextgraft.errors import ConfigError
from contextgraft.prompts.needle_kinds import NEEDLE_KINDS

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "config/config.yaml", *sorted((ROOT / "config/studies").glob("*.yaml"))]
STUDY: dict[str, Any] = {
    "study": "s",
    "base": "demo:base",
    "donor": {"train": "donor.yaml"},
    "fine_tunes": "sheet.tsv",
    "ranks": [1, 2],
    "evaluation": {
        "needle": {"format": "n.yaml", "lengths": [128], "depths": [0, 50.5], "samples": 2, "seed": 1},
        "skill": {"samples": 2},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The study with one value changed, named by its dotted path."""
    study = yaml.safe_load(yaml.safe_dump(STUDY))
    *sections, key = path.split(".")
    section = study
    for name in sections:
        section = section[name]
    section[key] = value
    return dict(study)


def test_schema_in_the_repository_is_the_models() -> None:
    text = (ROOT / "config/schema.json").read_text()
    assert text == schema_text(), "run: python -m contextgraft.config.json_schema"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_studies_are_valid_and_their_files_are_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load(path.read_text())
    study = load_study(config, path, NEEDLE_KINDS)
    assert study.targets
    jsonschema.validate(config, yaml.safe_load(schema_text()))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("rnaks", [1], "unknown key 'rnaks'"),
        ("evaluation.needle.depth", 3, "unknown key 'evaluation.needle.depth'"),
        ("donor", {}, "exactly one of train"),
        ("donor", {"train": "a", "source": "b"}, "exactly one of train"),
        ("ranks", [], "ranks"),
        ("ranks", [2, 2], "ranks repeats a value"),
        ("ranks", [0], "ranks.0"),
        ("study", "../up", "study"),
        ("base", "two words", "base"),
        ("donor_seeds", [1, 1], "donor_seeds repeats a value"),
        ("evaluation.needle.depths", [101], "evaluation.needle.depths.0"),
        ("evaluation.needle.lengths", [64, 64], "lengths repeats a value"),
        ("evaluation.skill", None, "evaluation.skill"),
    ],
)
def test_a_mistake_gives_one_line_with_file_and_key(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        validate(StudyConfig, changed(path, value), "config.yaml")
    assert str(error.value).startswith("config.yaml: ")
    assert "\n" not in str(error.value)


def test_a_fetched_donor_has_one_seed() -> None:
    fetched = changed("donor", {"source": "demo:donor"})
    assert validate(StudyConfig, fetched, "c").donor.source == "demo:donor"
    with pytest.raises(ConfigError, match="a fetched donor has one seed"):
        validate(StudyConfig, {**fetched, "donor_seeds": [1, 2]}, "c")


@given(st.recursive(st.none() | st.booleans() | st.text() | st.floats(), lambda v: st.lists(v, max_size=3)))
def test_any_value_in_any_place_is_taken_or_refused_in_one_line(value: Any) -> None:
    for key in STUDY:
        assert "\n" not in outcome(changed(key, value))


def outcome(config: dict[str, Any]) -> str:
    """What a person would read."""
    try:
        return validate(StudyConfig, config, "c").study
    except ConfigError as error:
        return str(error)


def test_a_misspelt_key_is_reported_before_the_missing_one() -> None:
    with pytest.raises(ConfigError, match="unknown key 'studdy'"):
        validate(StudyConfig, {"studdy": "demo"}, "config.yaml")
