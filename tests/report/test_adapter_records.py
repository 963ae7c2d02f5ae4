"""Energy by rank from sidecars."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from contextgraft.errors import InputError
from contextgraft.formats.adapter_record import (
    AdapterRecord,
    ModuleEnergy,
    base_context,
    read_adapter_records,
)
from contextgraft.formats.tensor_names import short_kind
from contextgraft.report.statistics.weights import (
    ALL_MODULES,
    energy_by_kind,
    energy_by_rank,
)


def adapter(rank: int, energy: float, *modules: ModuleEnergy) -> AdapterRecord:
    return AdapterRecord(rank, energy, modules, base={}, donor={}, rope={})


def test_kinds_count_modules_by_their_energy() -> None:
    # squares 9 and 1: (9 * 0.5 + 1 * 1.0) / 10
    parts = (
        ModuleEnergy("model.layers.0.self_attn.q_proj", 0.5, 3.0),
        ModuleEnergy("model.layers.1.self_attn.q_proj", 1.0, 1.0),
    )
    assert energy_by_kind(adapter(4, 0.7, *parts)) == pytest.approx({"q": 0.55})


def test_a_kind_that_did_not_change_is_left_out() -> None:
    assert energy_by_kind(adapter(4, 1.0, ModuleEnergy("lm_head", 1.0, 0.0))) == {}


@pytest.mark.parametrize(
    ("name", "expected"), [("model.layers.3.mlp.down_proj", "down"), ("lm_head", "lm_head")]
)
def test_kind_from_the_name(name: str, expected: str) -> None:
    assert short_kind(name) == expected


def test_donors_of_one_rank_are_averaged_with_their_range() -> None:
    (item,) = energy_by_rank([adapter(4, 0.4), adapter(4, 0.6)])
    assert (item.kind, item.rank) == (ALL_MODULES, 4)
    assert (item.mean, item.low, item.high) == pytest.approx((0.5, 0.4, 0.6))


def test_adapters_below_a_folder_are_found_once(adapters: Path) -> None:
    records = read_adapter_records([adapters, adapters / "donor-s1" / "r4"])
    assert [(item.donor["name"], item.rank) for item in records[:3]] == [
        ("donor-s1", 1),
        ("donor-s1", 2),
        ("donor-s1", 4),
    ]
    assert len(records) == 10
    assert base_context(records) == 128


def test_the_whole_comes_first_then_the_order_of_a_layer(adapters: Path) -> None:
    kinds = list(dict.fromkeys(item.kind for item in energy_by_rank(read_adapter_records([adapters]))))
    assert kinds == [ALL_MODULES, "q", "k", "v", "o", "gate", "up", "down"]


def test_folders_without_an_adapter_are_refused(tmp_path: Path) -> None:
    (tmp_path / "contextgraft.json").write_text(json.dumps({"kind": "source"}))
    with pytest.raises(InputError, match="holds no adapter"):
        read_adapter_records([tmp_path])


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "adapter", "rank": 4}'])
def test_broken_sidecars_are_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "contextgraft.json").write_text(text)
    with pytest.raises(InputError, match=r"contextgraft\.json: is not"):
        read_adapter_records([tmp_path])


def test_contexts_that_differ_are_none(tmp_path: Path, synthetic: SimpleNamespace) -> None:
    synthetic.write_sidecar(tmp_path / "r1", 1)
    (one,) = read_adapter_records([tmp_path])
    other = AdapterRecord(1, 1.0, (), {}, {}, {"base": {"max_positions": 8192}})
    assert base_context([one, other]) is None
