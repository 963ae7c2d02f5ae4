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
from contextgraft.errors import ConfigError, SeveralMistakes, mistakes_of
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
        ("evaluation.suites", ["needles"], "evaluation.suites.0: no such suite; give one of needle, ruler"),
        ("evaluation.suites", [], "evaluation.suites: List should have at least 1 item"),
        ("evaluation.needle.samples", 10**30, "evaluation.needle.samples: .* less than or equal to 1000000"),
        ("evaluation.needle.lengths", [10**30], "evaluation.needle.lengths.0: .* less than or equal to"),
        ("evaluation.scales", [float("nan")], "evaluation.scales.0"),
        ("evaluation.controls", ["THETA_ONLY"], "evaluation.controls.0"),
        ("cluster", {"node_memory": 1e308}, "cluster.node_memory: .* less than or equal to"),
        ("cluster", {"network": 1e-320}, "cluster.network: .* greater than or equal to"),
        ("threads", {"train": 10**30}, "threads.train"),
        ("keep_grafts", "x" * 5000, "keep_grafts: .*xxx\\.\\.\\.$"),
    ],
)
def test_a_mistake_gives_one_line_with_file_and_key(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        validate(StudyConfig, changed(path, value), "config.yaml")
    assert str(error.value).startswith("config.yaml: ")
    assert len(str(error.value)) < 2000


def test_contradictions_are_reported_together() -> None:
    study = changed("short_donor", "demo:facts") | {"ranks": [1, 1], "donor_seeds": [2, 2]}
    with pytest.raises(ConfigError) as error:
        validate(StudyConfig, study, "config.yaml")
    for words in ("donor_seeds repeats", "ranks repeats", "short_donor is given"):
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_fetched_donor_has_one_seed() -> None:
    fetched = changed("donor", {"source": "demo:donor"})
    assert validate(StudyConfig, fetched, "c").donor.source == "demo:donor"
    with pytest.raises(ConfigError, match="a fetched donor has one seed"):
        validate(StudyConfig, {**fetched, "donor_seeds": [1, 2]}, "c")


def test_the_donor_is_not_the_base() -> None:
    base = changed("base", "demo:base")
    with pytest.raises(ConfigError, match="base and donor are the same model"):
        validate(StudyConfig, {**base, "donor": {"source": "demo:base"}}, "c")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ranks", [True]), ("ranks", [8, True]), ("donor_seeds", [True]), ("donor_seeds", [False]),
        ("evaluation.needle.samples", True), ("evaluation.needle.lengths", [True]),
        ("evaluation.needle.depths", [False]), ("evaluation.needle.seed", False),
        ("evaluation.skill.samples", True),
    ],
)  # fmt: skip
def test_a_boolean_is_no_number(path: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{path}.*(true|false|True|False)"):
        validate(StudyConfig, changed(path, value), "study.yaml")


def test_a_boolean_is_a_value_of_keys_that_have_one() -> None:
    assert validate(StudyConfig, changed("evaluation.skill.trust_tasks", value=True), "study.yaml")


@given(st.recursive(st.none() | st.booleans() | st.text() | st.floats(), lambda v: st.lists(v, max_size=3)))
def test_any_value_in_any_place_is_taken_or_refused_in_one_line_a_mistake(value: Any) -> None:
    for key in STUDY:
        assert not any("\n" in line for line in outcome(changed(key, value)))


def outcome(config: dict[str, Any]) -> list[str]:
    """What a person would read: the name of the study, or each mistake."""
    try:
        return [validate(StudyConfig, config, "c").study]
    except ConfigError as error:
        return list(map(str, mistakes_of(error)))


def test_all_mistakes_are_reported_at_once() -> None:
    config = changed("ranks", [0, "x"]) | {"base": 3, "fine_tuness": "sheet.tsv"}
    del config["fine_tunes"]
    del config["evaluation"]["needle"]["lengths"]
    with pytest.raises(SeveralMistakes) as error:
        validate(StudyConfig, config, "my.yaml")
    first, *lines = str(error.value).splitlines()
    assert first == "5 mistakes"
    assert all(line.startswith("  my.yaml: ") for line in lines)
    assert lines[0].endswith("unknown key 'fine_tuness'; did you mean fine_tunes?")
    assert [line.split(": ")[1] for line in lines[1:]] == [
        "base", "ranks.0", "ranks.1", "evaluation.needle.lengths"
    ]  # fmt: skip
    assert lines[4].endswith("Field required; expected prompt and answer, in tokens")


def test_mistakes_of_study_sheet_and_files_are_reported_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sheet.tsv").write_text("name\tsource\tskill\na\tdemo:a\tnone.jsonl\nbase\tdemo:b\nc\nd\tdemo:d\n")
    with pytest.raises(SeveralMistakes) as error:
        load_study(changed("evaluation.needle.kinds", ["rhyme"]), "my.yaml", NEEDLE_KINDS)
    text = str(error.value)
    for part in (
        "my.yaml: evaluation.needle.kinds: unknown kind of question; expected one of single",
        "sheet.tsv:3: the name 'base' is reserved",
        "sheet.tsv:4: source: Field required; expected any source of `contextgraft fetch`",
        "my.yaml: donor.train names a file that is not there; received donor.yaml",
        "my.yaml: evaluation.needle.format names a file that is not there",
    ):
        assert part in text
    assert len(error.value.mistakes) == 5


def test_a_misspelt_key_is_reported_before_the_missing_one() -> None:
    with pytest.raises(ConfigError, match="unknown key 'studdy'"):
        validate(StudyConfig, {"studdy": "demo"}, "config.yaml")
