"""Control rows of a study: counted, compared with the graft in words, and part of the verdict."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.formats.samples import SCHEMA
from contextgraft.report.data.labels import model_names
from contextgraft.report.data.samples import SampleDatabase, read_samples
from contextgraft.report.statistics.cells import score_group
from contextgraft.report.statistics.paired import pairs_by_model, skill_pairs
from contextgraft.report.statistics.study_table import TargetResult, build_study_table
from contextgraft.report.tables.wording import sentence

FOUND = {"yarn": 80, "random": 53, "old_theta": 2}


def controlled(synthetic: SimpleNamespace, name: str, found: int, skill: int) -> Iterator[dict[str, Any]]:
    """The rows of a control of the fine-tune style."""
    scale = 0.0 if name in ("yarn", "dynamic_ntk") else 1.0
    graft = synthetic.graft("style", 16, scale=scale)
    own = {**graft.graft, "control": name}
    model = synthetic.Model(f"digest-{name}", own)
    yield from synthetic.needle(model, "needle_style", 1024, found)
    yield from synthetic.skill(model, "style", skill)


def study_with(
    synthetic: SimpleNamespace, folder: Path, found: dict[str, int], skill: int = 195
) -> SampleDatabase:
    synthetic.write_study(folder)
    rows = [row for name, hits in found.items() for row in controlled(synthetic, name, hits, skill)]
    synthetic.write(folder / "controls.parquet", rows)
    return read_samples([folder])


def style(samples: SampleDatabase) -> TargetResult:
    groups = [score_group(row) for row in samples.rows("score_groups")]
    pairs = pairs_by_model(map(skill_pairs, samples.rows("pairs")))
    study = build_study_table(groups, model_names(samples.rows("labels")), 128, pairs)
    return next(target for target in study.targets if target.name == "style")


def test_controls_stand_between_theta_only_and_the_grafts(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    target = style(study_with(synthetic, tmp_path, FOUND))
    assert [row.label for row in target.rows[:6]] == [
        "alone",
        "theta only",
        "adapter, old theta r16",
        "random adapter r16",
        "YaRN",
        "graft r1",
    ]
    assert {row.label: row.long.proportion.hits for row in target.controls} == {
        "adapter, old theta r16": 2,
        "random adapter r16": 53,
        "YaRN": 80,
    }
    assert [row.model.rank for row in target.grafts] == [1, 2, 4, 8, 16]
    assert all(row.skill_difference and row.pairs.n == 200 for row in target.controls)


def test_the_sentence_compares_the_graft_with_each_control(
    synthetic: SimpleNamespace, tmp_path: Path
) -> None:
    target = style(study_with(synthetic, tmp_path, FOUND))
    text = sentence(target.verdict, "1,024 tokens")
    assert "YaRN 80 %" in text
    assert "random adapter 53 %" not in text  # it has an adapter
    for name in ("theta only", "YaRN", "random adapter r16", "adapter, old theta r16"):
        assert f"] over {name}" in text
    assert not target.verdict.adapter_unneeded


def test_no_adapter_is_needed_where_the_config_alone_is_enough(
    synthetic: SimpleNamespace, tmp_path: Path
) -> None:
    samples = study_with(synthetic, tmp_path / "kept", {"yarn": 97, "random": 99}, skill=198)
    verdict = style(samples).verdict
    assert (verdict.free_alternatives, verdict.adapter_unneeded) == (("YaRN",), True)
    assert "YaRN by the config alone passes" in sentence(verdict, "1,024 tokens")
    lost = style(study_with(synthetic, tmp_path / "lost", {"yarn": 97}, skill=150)).verdict
    assert (lost.free_alternatives, lost.adapter_unneeded) == ((), False)


def test_an_unknown_control_takes_no_other_role(synthetic: SimpleNamespace, tmp_path: Path) -> None:
    target = style(study_with(synthetic, tmp_path, {"graft": 100, "base": 100}))
    assert [row.label for row in target.controls] == ["base r16", "graft r16"]
    assert [row.label for row in target.grafts] == [f"graft r{rank}" for rank in (1, 2, 4, 8, 16)]
    assert [row.long.proportion.hits for row in target.grafts][-1] == 2 * 99 - 1


def test_a_table_of_an_older_version_has_no_column_for_controls(
    synthetic: SimpleNamespace, tmp_path: Path
) -> None:
    folder = synthetic.write_study(tmp_path / "study")
    before = read_samples([folder]).rows("score_groups")
    for file in folder.glob("*.parquet"):
        table = pq.read_table(file).drop_columns(["control"])
        assert table.schema.names == [name for name in SCHEMA.names if name != "control"]
        pq.write_table(table, file)
    assert read_samples([folder]).rows("score_groups") == before
    pq.write_table(pa.table({"control": ["x"]}), folder / "a.parquet")
    with pytest.raises(Exception, match="no model, model_digest"):
        read_samples([folder])
