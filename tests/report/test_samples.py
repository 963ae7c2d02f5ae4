"""Samples found, refused, and given their roles."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.errors import InputError
from contextgraft.formats.find_samples import find_sample_files
from contextgraft.formats.sample_files import COLUMNS
from contextgraft.formats.samples import SCHEMA
from contextgraft.report.data.samples import read_samples


def roles(folder: Path) -> dict[str, int]:
    rows = read_samples([folder]).rows("score_groups")
    return {
        role: sum(row["n"] for row in rows if row["role"] == role) for role in {row["role"] for row in rows}
    }


def test_roles_come_from_digests_not_from_labels(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    named = {"model": "a name that says nothing"}
    rows = [
        *synthetic.needle(synthetic.Model("base"), "n", 128, 5, each=1, **named),
        *synthetic.needle(synthetic.Model("donor-s1"), "n", 128, 5, each=2, **named),
        *synthetic.needle(synthetic.Model("style"), "n", 128, 5, each=3, **named),
        *synthetic.needle(synthetic.graft("style", 8), "n", 128, 5, each=4, **named),
        *synthetic.needle(synthetic.graft("style", 8, scale=0.0), "n", 128, 5, each=5, **named),
        *synthetic.needle(synthetic.Model("stranger"), "n", 128, 5, each=6, **named),
    ]
    synthetic.write(tmp_path / "all.parquet", rows)
    assert roles(tmp_path) == {"base": 5, "donor": 10, "alone": 15, "graft": 20, "theta": 25, "other": 30}


def test_a_base_that_is_also_a_target_has_both_roles(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [
        *synthetic.needle(synthetic.Model("base"), "n", 128, 5, each=1),
        *synthetic.needle(synthetic.graft("base", 8), "n", 128, 5, each=1),
    ]
    synthetic.write(tmp_path / "all.parquet", rows)
    assert roles(tmp_path) == {"base": 5, "alone": 5, "graft": 5}


def test_copies_count_once_and_a_scored_one_wins(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    model = synthetic.Model("style")
    synthetic.write(
        tmp_path / "a.parquet",
        synthetic.unscored(synthetic.needle(model, "n", 128, 5, each=1), "failed", "x"),
    )
    synthetic.write(tmp_path / "b.parquet", list(synthetic.needle(model, "n", 128, 3, each=1)))
    groups = read_samples([tmp_path]).rows("score_groups")
    assert sum(row["n"] for row in groups) == 5
    assert sum(row["hits"] for row in groups) == 3
    assert sum(row["failed"] for row in groups) == 0


def test_theta_only_of_several_donors_is_one_model(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = [
        row
        for donor in ("donor-s1", "donor-s2")
        for row in synthetic.needle(synthetic.graft("style", 1, donor, scale=0.0), "n", 128, 5, each=1)
    ]
    synthetic.write(tmp_path / "a.parquet", rows)
    assert roles(tmp_path) == {"theta": 5}


def test_a_file_named_twice_is_read_once(results: Path) -> None:
    assert len(find_sample_files([results, results / "base.parquet"])) == 4


def test_partial_results_of_a_running_evaluation_are_skipped(
    tmp_path: Path, synthetic: SimpleNamespace
) -> None:
    rows = list(synthetic.needle(synthetic.Model("style"), "n", 128, 5, each=1))
    synthetic.write(tmp_path / "a.parquet", rows)
    synthetic.write(tmp_path / ".b.parquet.partial" / "b.parquet", rows)
    assert [source.name for source in find_sample_files([tmp_path])] == ["a.parquet"]


def test_columns_of_nothing_but_nulls_may_have_no_type(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    rows = list(synthetic.needle(synthetic.Model("style"), "n", 128, 5, each=1))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert roles(tmp_path) == {"other": 5}


def test_every_column_of_an_evaluation_has_a_type_in_the_database() -> None:
    assert list(COLUMNS) == SCHEMA.names
    assert all(kind.fits(SCHEMA.field(name).type) for name, kind in COLUMNS.items())
    assert {COLUMNS[name].sql for name in ("model", "reason")} == {"VARCHAR"}
    assert {COLUMNS[name].sql for name in ("seed", "length", "rank")} == {"BIGINT"}
    assert {COLUMNS[name].sql for name in ("score", "depth", "scale")} == {"DOUBLE"}


def test_refusals_name_file_and_remedy(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"model": ["a"]}), tmp_path / "short.parquet")
    rows = list(synthetic.skill(synthetic.Model("style"), "style", 1, n=1))
    table = pa.Table.from_pylist(rows, schema=synthetic.schema)
    pq.write_table(table.set_column(0, "model", pa.array([1])), tmp_path / "typed.parquet")
    for name, words in {
        "nowhere": "no such file or folder",
        "empty": r"contains no \*\.parquet",
        "text.parquet": "not a readable Parquet file",
        "short.parquet": "received no model_digest",
        "typed.parquet": "column 'model' has the wrong type",
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            read_samples([tmp_path / name])
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
