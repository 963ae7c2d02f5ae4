"""The table of samples: names that need no quotes in SQL, roles as the report calls them, older tables."""

import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.errors import InputError
from contextgraft.formats.parquet.file_digest import MARK, with_digest
from contextgraft.formats.sample_files import check_intact, check_sample_file
from contextgraft.formats.samples import (
    ABSENT_IN_OLDER,
    OLDER_NAMES,
    RUN,
    SCHEMA,
    as_today,
    has_columns_of_today,
    read_if,
    table,
    with_roles,
    write,
)


def graft(scale: float = 1.0, control: str | None = None) -> dict[str, Any]:
    return {
        "target_digest": "t", "base_digest": "b", "donor_digest": "d", "rank": 8, "scale": scale,
        "control": control,
    }  # fmt: skip


def rows(*models: tuple[str, dict[str, Any]]) -> pa.Table:
    parts = [
        table({"model": name, "model_digest": name, **origin}, [{"score": 1.0}]) for name, origin in models
    ]
    return pa.concat_tables(parts)


@pytest.mark.parametrize("database", [sqlite3.connect, duckdb.connect])
def test_no_column_needs_quotes(database: Any) -> None:
    columns = ", ".join(SCHEMA.names)
    with database(":memory:") as connection:
        connection.execute(f"CREATE TABLE samples ({', '.join(f'{name} TEXT' for name in SCHEMA.names)})")
        connection.execute(f"SELECT {columns} FROM samples WHERE {SCHEMA.names[0]} = 'x' GROUP BY {columns}")


def test_roles_are_named_as_on_the_page() -> None:
    made = rows(
        ("b", {}), ("d", {}), ("t", {}), ("x", {}), ("g", graft()), ("z", graft(0.0)),
        ("y", graft(0.0, "yarn")), ("o", graft(0.0, "theta_only")), ("n", graft(1.0, "new_one")),
    )  # fmt: skip
    assert with_roles(made).column("role").to_pylist() == [
        "base", "donor", "alone", "model", "graft", "theta only", "YaRN", "theta only", "new_one",
    ]  # fmt: skip
    assert with_roles(made).schema == SCHEMA


def sample(index: int) -> dict[str, Any]:
    return {"suite": "needle", "sample_index": index, "score": 1.0}


def older(path: Path) -> Path:
    """A table as it was written before the columns had their names of today."""
    made = table({"model": "g", "model_digest": "g", **graft()}, [sample(index) for index in range(5)])
    made = made.drop_columns(list(ABSENT_IN_OLDER))
    old_names = [OLDER_NAMES.get(name, name) for name in made.column_names]
    pq.write_table(made.rename_columns(old_names).replace_schema_metadata({RUN: b"key"}), path)
    return path


def test_tables_of_older_versions_are_read(tmp_path: Path) -> None:
    path = older(tmp_path / "old.parquet")
    names = check_sample_file(path)
    assert names["sample_index"] == "index"
    assert names["role"] is None
    read = read_if(path, "key")
    assert read is not None
    assert read.schema == SCHEMA
    assert read.column("rank").to_pylist() == [8] * 5
    assert read.column("chat").to_pylist() == [None] * 5
    assert read.column("role").to_pylist() == ["graft"] * 5
    assert read.column("split").to_pylist() == ["choose", "report", "report", "report", "choose"]
    assert not has_columns_of_today(path)
    write(read, tmp_path / "new.parquet", "key")
    assert as_today(pq.read_table(tmp_path / "new.parquet")).equals(read)
    assert has_columns_of_today(tmp_path / "new.parquet")


def finished(path: Path) -> pa.Table:
    """A finished table at `path`."""
    made = table({"model": "g", "model_digest": "g", **graft()}, [sample(index) for index in range(5)])
    write(made, path, "key")
    return made


def test_a_spoiled_byte_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    """By `evaluate` and `report`, in pages, their headers and the footer."""
    path = tmp_path / "samples.parquet"
    finished(path)
    raw = path.read_bytes()
    mark = raw.index(MARK)
    for at in range(0, len(raw), 41):
        if not mark <= at < mark + len(MARK):  # without the mark it is as whole as an older table
            path.write_bytes(raw[:at] + bytes([raw[at] ^ (1 if at % 2 else 32)]) + raw[at + 1 :])
            assert read_if(path, "key") is None
            with pytest.raises(InputError):
                check_intact(path)
    path.write_bytes(raw)
    check_intact(path)


@pytest.mark.parametrize(
    "settings",
    [{"row_group_size": 2, "compression": "gzip"}, {"write_statistics": False, "use_dictionary": False}],
    ids=str,
)
def test_a_table_of_another_writer_is_finished(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Its version of pyarrow and its settings change the bytes, and not whether they are right."""
    path = tmp_path / "samples.parquet"
    made = finished(path)
    sink = pa.BufferOutputStream()
    pq.write_table(pq.read_table(path), sink, **settings)
    raw = sink.getvalue().to_pybytes()
    name = str(pq.read_metadata(path).created_by).encode()
    raw = raw.replace(name, name[:-1] + b"?")
    for written in (raw, with_digest(raw)):
        path.write_bytes(written)
        read = read_if(path, "key")
        assert read is not None
        assert read.equals(made)
        assert has_columns_of_today(path)
        check_intact(path)


def test_a_page_of_an_older_table_is_verified(tmp_path: Path) -> None:
    """It has checksums of its pages only."""
    path = tmp_path / "samples.parquet"
    pq.write_table(finished(path).replace_schema_metadata({RUN: "key"}), path, write_page_checksum=True)
    assert read_if(path, "key") is not None
    raw = path.read_bytes()
    chunk = pq.read_metadata(path).row_group(0).column(0)
    at = chunk.dictionary_page_offset + chunk.total_compressed_size - 1
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    assert read_if(path, "key") is None
    with pytest.raises(InputError):
        check_intact(path)


def test_duckdb_reads_a_table_with_a_digest(tmp_path: Path) -> None:
    made = finished(tmp_path / "samples.parquet")
    with duckdb.connect(":memory:") as connection:
        rows = connection.execute(f"FROM '{tmp_path}/samples.parquet' WHERE score = 1").fetchall()
    assert rows == [tuple(row.values()) for row in made.to_pylist()]
