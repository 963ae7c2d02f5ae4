"""Synthetic grafts and alignments, and the whole report of the synthetic study."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contextgraft.report.build import Report, build
from contextgraft.report.folder import write_report

TIMEOUT = 120_000  # milliseconds; long, for a busy machine


def write_graft(folder: Path, target: str, rank: int, scale: float = 1.0, kept: float = 0.98) -> Path:
    """A graft's sidecar: two layers, of whose q the delta survived less."""
    delta = {"applied": True, "delta_norm": 2.0, "survived_norm": 2.1}
    names = [
        f"model.layers.{at}.{part}.weight" for at in (0, 1) for part in ("self_attn.q_proj", "mlp.up_proj")
    ]
    made_of = {"digest": "digest-adapter", "rank": rank, "scale": scale}
    made_of |= {side: {"name": side, "digest": f"digest-{side}"} for side in ("base", "donor-s1")}
    made_of["donor"] = made_of.pop("donor-s1")
    rope = {
        "before": {"theta": 10000.0, "max_positions": 128},
        "after": {"theta": 192000.0, "max_positions": 1024},
    }
    sidecar = {
        "kind": "graft",
        "target": {"name": target, "digest": f"digest-{target}", "source": f"hf:people/{target}"},
        "adapters": [made_of],
        "rope": rope,
        "tensors": {name: {**delta, "kept": kept - 0.1 * ("q_proj" in name)} for name in names},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contextgraft.json").write_text(json.dumps(sidecar))
    return folder


def write_alignment(path: Path, target: str, rank: int | None = None) -> Path:
    """Cosines of four layers: q agrees more with every layer, up not at all; with an adapter of that rank."""
    adapter = {} if rank is None else {"adapter_digest": f"digest-r{rank}", "adapter_rank": rank}
    rows = [
        {
            "target_digest": f"digest-{target}",
            "donor_digest": "digest-donor-s1",
            "base_digest": "digest-base",
            "target_name": target,
            "donor_name": "donor-s1",
            "tensor": f"model.layers.{at}.{kind}_proj.weight",
            "layer": at,
            "kind": f"{kind}_proj",
            "donor_norm": 2.0,
            "target_norm": 3.0,
            "inner": 6.0 * cosine,
            "elements": 4096,
            **adapter,
        }
        for at in range(4)
        for kind, cosine in (("q", 0.1 * at), ("up", 0.0))
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="session")
def written() -> SimpleNamespace:
    """The writers of sidecars of grafts and of alignments."""
    return SimpleNamespace(graft=write_graft, alignment=write_alignment)


@pytest.fixture(scope="session")
def inputs(
    results: Path, adapters: Path, synthetic: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Everything a report can be made of."""
    folder = tmp_path_factory.mktemp("weights")
    for target, ranks in synthetic.grafts.items():
        for rank in ranks:
            write_graft(folder / "grafts" / target / f"r{rank}", target, rank)
    return {
        "results": [results],
        "adapters": [adapters],
        "title": "A synthetic study",
        "note": "No model answered these samples.",
        "grafts": [folder / "grafts"],
        "alignments": [
            write_alignment(folder / f"{name}.parquet", name, rank)
            for name, rank in zip(synthetic.grafts, [8, *[None] * len(synthetic.grafts)], strict=False)
        ],
    }


@pytest.fixture(scope="session")
def report(inputs: dict[str, Any]) -> Report:
    """The report of the synthetic study."""
    return build(**inputs)


@pytest.fixture(scope="session")
def folder(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same report on the disk."""
    out = tmp_path_factory.mktemp("published") / "report"
    write_report(report, out)
    return out
