"""Tables of alignments from others: a column of another type is one error, an impossible row is not shown."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.errors import InputError
from contextgraft.formats.read_alignment import COLUMNS, LATER, read_alignments

ROW: dict[str, Any] = {
    "target_name": "t", "target_digest": "td", "donor_name": "d", "donor_digest": "dd", "base_digest": "b",
    "adapter_digest": None, "adapter_rank": None, "tensor": "model.layers.0.self_attn.q_proj.weight",
    "layer": 0, "kind": "q_proj", "elements": 10, "donor_norm": 1.0, "target_norm": 1.0, "inner": 0.5,
}  # fmt: skip
OTHER = ROW | {"tensor": "model.layers.1.self_attn.q_proj.weight", "layer": 1}


def read(path: Path, *rows: dict[str, Any]) -> list[int | None]:
    """The layers that are shown."""
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return [item.layer for item in read_alignments([path])]


@pytest.mark.parametrize("name", ["elements", "donor_norm", "target_norm", "inner"])
@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf"), 1e300, -1.0])
def test_an_impossible_row_is_not_shown(tmp_path: Path, name: str, value: float | None) -> None:
    if name == "elements" and value is not None:
        value = -1  # the column holds integers
    shown = read(tmp_path / "a.parquet", {**ROW, name: value}, OTHER)
    assert shown == ([0, 1] if (name, value) == ("inner", -1.0) else [1])


@pytest.mark.parametrize("name", ["target_name", "donor_name", "tensor", "kind"])
def test_a_row_without_a_name_is_not_shown(tmp_path: Path, name: str) -> None:
    assert read(tmp_path / "a.parquet", {**ROW, name: None}, OTHER) == [1]


@pytest.mark.parametrize("name", [*COLUMNS, *LATER])
def test_a_column_of_another_type_is_one_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"column '{name}' has the wrong type"):
        read(tmp_path / "a.parquet", {**ROW, name: [1]})
