"""The command of the overview names the fine-tune as commands take it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from contextgraft.formats.adapter_record import AdapterRecord
from contextgraft.formats.graft_record import GraftRecord
from contextgraft.report.data.samples import read_samples
from contextgraft.report.statistics.weights import WeightRecords
from contextgraft.report.study import build_study
from contextgraft.report.tables.overview import overview


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ({"source": None, "revision": None}, "tune"),
        ({"source": "demo:tune", "revision": None}, "demo:tune"),
        ({"source": "hf:OWNER/TUNE", "revision": "c0ffee"}, "hf:OWNER/TUNE@c0ffee"),
        ({"source": "hf:OWNER/TUNE@main", "revision": "c0ffee"}, "hf:OWNER/TUNE@main"),
        ({"source": "/home/somebody/tune", "revision": None}, "tune"),
    ],
)
def test_the_target_is_the_source_of_the_fine_tune(
    synthetic: SimpleNamespace, record: dict[str, Any], named: str, tmp_path: Path
) -> None:
    make = synthetic
    tune, donor = make.Model("tune"), make.Model("donor")
    rows = [*make.needle(make.Model("base"), "n", 1024, 0), *make.needle(donor, "n", 1024, 100)]
    for model, found in ((tune, 0), (make.graft("tune", 4, scale=0.0), 0), (make.graft("tune", 4), 100)):
        rows += [*make.needle(model, "n", 1024, found), *make.skill(model, "s", 40, n=40)]
    make.write(tmp_path / "tune.parquet", rows)
    study = build_study(read_samples([tmp_path]))
    digest = study.targets[0].digest
    adapter = AdapterRecord(4, 1.0, (), {}, {}, {}, folder=Path("r4"))
    made = GraftRecord("r4", {"digest": digest, **record}, (), {}, ())
    [row] = overview(study, WeightRecords((adapter,), (made,)))
    assert row.command == f"contextgraft merge --adapter r4 --target {named} --out tune-r4"
