"""Grafts in memory for a server: written while it runs, with the bytes and files that `merge` writes."""

from collections.abc import Callable
from pathlib import Path

from tests.evaluation.moved_model import moved

from contextgraft.adapter.extract.extract import extract
from contextgraft.adapter.extract.model_pair import open_pair
from contextgraft.adapter.extract.rank_spec import RankSpec
from contextgraft.adapter.lora.adapter import open_adapter
from contextgraft.adapter.merge.merge import merge
from contextgraft.adapter.merge.plan import ScaledAdapter, plan_merge
from contextgraft.checkpoint.digest import tensor_digests
from contextgraft.checkpoint.model_folder import SIDECAR, open_model
from contextgraft.cli.evaluate.grafts import graft_variants
from contextgraft.evaluation.backends.written_model import write_model
from contextgraft.evaluation.models import open_eval_model

CARD = "README.md"  # of the graft, which no server reads


def test_a_served_graft_has_the_files_that_merge_writes(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_model("base")
    donor = moved(base, tmp_path / "donor", 1, max_position_embeddings=512)
    target = moved(base, tmp_path / "target", 2)
    extract(open_pair(base, donor), [RankSpec(2)], tmp_path / "adapters")
    adapter = tmp_path / "adapters/r2"
    merged = tmp_path / "merged"
    merge(plan_merge([ScaledAdapter(open_adapter(adapter), 1.0)], target), merged)

    (variant,) = graft_variants([("r2", adapter)], [1.0], [], tmp_path / "small", 1)
    made = tmp_path / "served"
    made.mkdir()
    folder = write_model(variant.open(open_eval_model("t", target)), made)

    assert tensor_digests(open_model(folder)) == tensor_digests(open_model(merged))
    names = {file.name for file in merged.iterdir()} - {SIDECAR, CARD}
    assert {file.name for file in folder.iterdir()} - {CARD} == names
    for name in names:
        assert (folder / name).read_bytes() == (merged / name).read_bytes(), name
