"""Records of adapters, grafts and alignments: what the commands write is what the report reads."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from contextgraft.cli.main import cli
from contextgraft.formats.adapter_record import base_context, read_adapter_records
from contextgraft.formats.graft_record import read_graft_records
from contextgraft.formats.read_alignment import read_alignments


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, toy: SimpleNamespace) -> Path:
    """Toy models, the adapters of two ranks, a graft and an alignment, written by the commands."""
    root = tmp_path_factory.mktemp("records")
    config = toy.config()
    base = toy.weights(config)
    toy.write(root / "base", base, config)
    toy.write(root / "donor", toy.moved(base, 1), toy.config(rope_theta=4e4, max_position_embeddings=1024))
    toy.write(root / "target", toy.moved(base, 2, 0.005), config)
    run = {
        "extract": ["--base", "base", "--donor", "donor", "--rank", "2", "--rank", "4", "--out", "adapters"],
        "merge": ["--adapter", "adapters/r4", "--target", "target", "--out", "grafts/r4"],
        "align": ["--base", "base", "--donor", "donor", "--target", "target", "--out", "alignment.parquet"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for command, arguments in run.items():
            done = CliRunner().invoke(cli, [command, *arguments])
            assert done.exit_code == 0, done.output
    return root


def test_adapters_have_their_rank_origin_and_energy(written: Path) -> None:
    two, four = read_adapter_records([written / "adapters"])
    assert (two.rank, four.rank) == (2, 4)
    assert 0 < two.energy < four.energy < 1
    assert (four.base["name"], four.donor["name"]) == ("base", "donor")
    assert four.rope["donor"]["theta"] == 4e4
    assert base_context([two, four]) == 128
    # seven linear modules in two layers
    assert len(four.modules) == 14
    assert all(0 < module.energy <= 1 and module.delta_norm > 0 for module in four.modules)


def test_grafts_have_their_origin_and_what_survived(written: Path) -> None:
    (graft,) = read_graft_records([written / "grafts"])
    assert (graft.name, graft.rank, graft.scale) == ("r4", 4, 1.0)
    assert (graft.target["name"], graft.donor["name"]) == ("target", "donor")
    assert graft.rope["after"]["max_positions"] == 1024
    linear = [tensor for tensor in graft.tensors if "_proj" in tensor.name]
    assert len(linear) == 14
    assert all(0.5 < tensor.kept < 1.5 and tensor.delta_norm > 0 for tensor in linear)


def test_alignments_have_a_cosine_for_each_layer_and_kind(written: Path) -> None:
    alignments = read_alignments([written / "alignment.parquet"])
    assert {(each.target, each.donor) for each in alignments} == {("target", "donor")}
    queries = [each for each in alignments if each.kind == "q"]
    assert [each.layer for each in queries] == [0, 1]
    # random directions of 64 x 64 numbers; each donor's q has rank 12 like the target's
    assert all(
        abs(each.cosine) <= 1 and each.chance == pytest.approx(1.96 / 64, rel=1e-4) for each in queries
    )
