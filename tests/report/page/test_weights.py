"""Survival and alignment from sidecars and tables, against figures computed by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.errors import InputError
from contextgraft.report.data.adapter_records import Adapter, Module, by_layer
from contextgraft.report.data.graft_records import Graft, Tensor, alignments, grafts, survival


def graft(*tensors: Tensor) -> Graft:
    return Graft("r8", {"name": "style"}, (), {}, tensors)


def test_tensors_count_by_the_energy_of_their_delta() -> None:
    # squares 9 and 1: (9 * 0.5 + 1 * 1.0) / 10
    q = "model.layers.{}.self_attn.q_proj.weight"
    parts = survival(graft(Tensor(q.format(0), 3.0, 0.5), Tensor(q.format(1), 1.0, 1.0)))
    assert [(part.kind, part.lowest, part.tensors) for part in parts] == [
        ("all modules", 0.5, 2),
        ("q", 0.5, 2),
    ]
    assert [part.kept for part in parts] == pytest.approx([0.55, 0.55])


def test_norms_are_one_kind_and_what_has_no_delta_none() -> None:
    names = ("model.layers.0.input_layernorm.weight", "model.norm.weight", "lm_head.weight")
    parts = survival(graft(*(Tensor(name, float("norm" in name), 1.0) for name in names)))
    assert [(part.kind, part.tensors) for part in parts] == [("all modules", 2), ("norms", 2)]


def test_grafts_are_found_once_in_the_order_of_ranks(tmp_path: Path, written: SimpleNamespace) -> None:
    for rank in (16, 2):
        written.graft(tmp_path / f"r{rank}", "style", rank)
    written.graft(tmp_path / "theta", "style", 2, scale=0.0)
    found = grafts([tmp_path, tmp_path / "r2"])
    assert [(item.rank, item.scale) for item in found] == [(2, 1.0), (2, 0.0), (16, 1.0)]
    assert found[0].donor["name"] == "donor-s1"


def test_folders_without_a_graft_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no graft"):
        grafts([tmp_path])


@pytest.mark.parametrize("lost", ["target", "adapters", "tensors", "rope"])
def test_a_sidecar_that_lacks_something_is_refused(
    tmp_path: Path, written: SimpleNamespace, lost: str
) -> None:
    path = written.graft(tmp_path, "style", 2) / "contextgraft.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != lost}))
    with pytest.raises(InputError, match="not a whole sidecar of a graft"):
        grafts([tmp_path])


def test_cosines_by_layer_and_kind_beside_chance(tmp_path: Path, written: SimpleNamespace) -> None:
    path = written.alignment(tmp_path / "a.parquet", "style")
    found = alignments([path, path])
    assert [(item.layer, item.kind) for item in found[:3]] == [(0, "q"), (0, "up"), (1, "q")]
    assert [item.cosine for item in found if item.kind == "q"] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [item.chance for item in found] == pytest.approx([1.96 / 64] * 8)


def test_tensors_of_one_kind_and_layer_are_one_vector(tmp_path: Path, written: SimpleNamespace) -> None:
    rows = pq.read_table(written.alignment(tmp_path / "a.parquet", "style")).to_pylist()[:1]
    rows += [{**rows[0], "tensor": "model.layers.0.experts.1.q_proj.weight", "inner": 3.0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    (item,) = alignments([tmp_path / "b.parquet"])
    # norms sqrt(8) and sqrt(18); two inner products of 6 / 64 each by chance
    assert item.cosine == pytest.approx(3 / 12)
    assert item.chance == pytest.approx(1.96 * (72**0.5 / 64) / 12)


@pytest.mark.parametrize(
    ("text", "said"), [("", "not a readable Parquet"), (None, "not a table of alignments")]
)
def test_other_files_are_refused_by_name(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "other.parquet"
    if text is None:
        pq.write_table(pa.table({"tensor": ["a"]}), path)
    else:
        path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        alignments([path])
    assert "other.parquet" in str(caught.value)


def test_energy_by_rank_layer_and_kind() -> None:
    modules = tuple(
        Module(f"model.layers.{at}.self_attn.{part}_proj", 0.1 * (at + 1), 2.0)
        for at in (0, 1)
        for part in ("k", "q")
    )
    found = by_layer([Adapter(4, 0.5, (*modules, Module("lm_head", 0.9, 1.0)), {}, {}, {})])
    assert [(item.layer, item.kind) for item in found] == [(0, "q"), (0, "k"), (1, "q"), (1, "k")]
    assert [item.mean for item in found] == pytest.approx([0.1, 0.1, 0.2, 0.2])


def test_a_folder_in_which_every_graft_was_refused_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "contextgraft.json").write_text(json.dumps({"kind": "refused", "reason": "too small"}))
    assert grafts([tmp_path]) == ()
