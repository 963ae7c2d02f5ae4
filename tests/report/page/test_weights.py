"""Survival and alignment from sidecars and tables, against figures computed by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.errors import InputError
from contextgraft.formats.adapter_record import AdapterRecord, ModuleEnergy
from contextgraft.formats.graft_record import GraftedTensor, GraftRecord, read_graft_records
from contextgraft.formats.read_alignment import read_alignments
from contextgraft.report.charts.weight_figures import alignment_figures
from contextgraft.report.statistics.weights import energy_by_layer, survival


def graft(*tensors: GraftedTensor) -> GraftRecord:
    return GraftRecord("r8", {"name": "style"}, (), {}, tensors)


def test_tensors_count_by_the_energy_of_their_delta() -> None:
    # squares 9 and 1: (9 * 0.5 + 1 * 1.0) / 10
    q = "model.layers.{}.self_attn.q_proj.weight"
    survived = survival(graft(GraftedTensor(q.format(0), 3.0, 0.5), GraftedTensor(q.format(1), 1.0, 1.0)))
    assert [(part.kind, part.lowest, part.tensors) for part in survived] == [
        ("all modules", 0.5, 2),
        ("q", 0.5, 2),
    ]
    assert [part.kept for part in survived] == pytest.approx([0.55, 0.55])


def test_norms_are_one_kind_and_what_has_no_delta_none() -> None:
    names = ("model.layers.0.input_layernorm.weight", "model.norm.weight", "lm_head.weight")
    survived = survival(graft(*(GraftedTensor(name, float("norm" in name), 1.0) for name in names)))
    assert [(part.kind, part.tensors) for part in survived] == [("all modules", 2), ("norms", 2)]


def test_grafts_are_found_once_in_the_order_of_ranks(tmp_path: Path, written: SimpleNamespace) -> None:
    for rank in (16, 2):
        written.graft(tmp_path / f"r{rank}", "style", rank)
    written.graft(tmp_path / "theta", "style", 2, scale=0.0)
    records = read_graft_records([tmp_path, tmp_path / "r2"])
    assert [(item.rank, item.scale) for item in records] == [(2, 1.0), (2, 0.0), (16, 1.0)]
    assert records[0].donor["name"] == "donor-s1"


def test_folders_without_a_graft_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no graft"):
        read_graft_records([tmp_path])


@pytest.mark.parametrize("lost", ["target", "adapters", "tensors", "rope"])
def test_a_sidecar_that_lacks_something_is_refused(
    tmp_path: Path, written: SimpleNamespace, lost: str
) -> None:
    path = written.graft(tmp_path, "style", 2) / "contextgraft.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != lost}))
    with pytest.raises(InputError, match="not a complete sidecar of kind graft"):
        read_graft_records([tmp_path])


def test_cosines_by_layer_and_kind_with_chance(tmp_path: Path, written: SimpleNamespace) -> None:
    path = written.alignment(tmp_path / "a.parquet", "style")
    records = read_alignments([path, path])
    assert [(item.layer, item.kind) for item in records[:3]] == [(0, "q"), (0, "up"), (1, "q")]
    assert [item.cosine for item in records if item.kind == "q"] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [item.chance for item in records] == pytest.approx([1.959963984540054 / 64] * 8)


def test_tensors_of_one_kind_and_layer_are_one_vector(tmp_path: Path, written: SimpleNamespace) -> None:
    rows = pq.read_table(written.alignment(tmp_path / "a.parquet", "style")).to_pylist()[:1]
    rows += [{**rows[0], "tensor": "model.layers.0.experts.1.q_proj.weight", "inner": 3.0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    (item,) = read_alignments([tmp_path / "b.parquet"])
    # norms sqrt(8) and sqrt(18); two inner products of 6 / 64 each by chance
    assert item.cosine == pytest.approx(3 / 12)
    assert item.chance == pytest.approx(1.959963984540054 * (72**0.5 / 64) / 12)


def test_the_donor_and_each_adapter_have_a_chart_of_their_own(
    tmp_path: Path, written: SimpleNamespace
) -> None:
    """The table of the donor is of an older version: it lacks the columns of the adapter."""
    donor = written.alignment(tmp_path / "donor.parquet", "style")
    rows = pq.read_table(donor).to_pylist()
    others = {"a.parquet": ("a" * 64, 8), "b.parquet": ("b" * 64, 8), "c.parquet": ("c" * 64, 32)}
    for name, (digest, rank) in others.items():
        adapter = {"adapter_digest": digest, "adapter_rank": rank}
        pq.write_table(pa.Table.from_pylist([{**row, **adapter} for row in rows]), tmp_path / name)
    records = read_alignments([donor, *(tmp_path / name for name in others)])
    assert len(records) == 4 * len(rows)
    assert [item.adapter_rank for item in records[:: len(rows)]] == [None, 8, 8, 32]
    assert len({(item.cosine, item.chance) for item in records}) == 4
    charts = alignment_figures(records)
    delta = "style and donor-s1, with the delta of the adapter of rank"
    assert {chart.name: chart.title for chart in charts} == {
        "alignment_style_donor-s1": "style and donor-s1",
        "alignment_style_donor-s1_r8_aaaaaaaa": f"{delta} 8 (aaaaaaaa)",
        "alignment_style_donor-s1_r8_bbbbbbbb": f"{delta} 8 (bbbbbbbb)",
        "alignment_style_donor-s1_r32": f"{delta} 32",
    }


@pytest.mark.parametrize(
    ("text", "words"), [("", "not a readable Parquet"), (None, "not a table of alignments")]
)
def test_other_files_are_refused_by_name(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "other.parquet"
    if text is None:
        pq.write_table(pa.table({"tensor": ["a"]}), path)
    else:
        path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_alignments([path])
    assert "other.parquet" in str(caught.value)


def test_energy_by_rank_layer_and_kind() -> None:
    modules = tuple(
        ModuleEnergy(f"model.layers.{at}.self_attn.{part}_proj", 0.1 * (at + 1), 2.0)
        for at in (0, 1)
        for part in ("k", "q")
    )
    records = energy_by_layer(
        [AdapterRecord(4, 0.5, (*modules, ModuleEnergy("lm_head", 0.9, 1.0)), {}, {}, {})]
    )
    assert [(item.layer, item.kind) for item in records] == [(0, "q"), (0, "k"), (1, "q"), (1, "k")]
    assert [item.mean for item in records] == pytest.approx([0.1, 0.1, 0.2, 0.2])


def test_a_folder_in_which_every_graft_was_refused_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "contextgraft.json").write_text(json.dumps({"kind": "refused", "reason": "too small"}))
    assert read_graft_records([tmp_path]) == ()
