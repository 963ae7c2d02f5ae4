"""Whether a weight that an adapter stores is the target's own."""

import torch

from contextgraft.adapter.compute.tiles import MERGE_TILE, tile_rows
from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.checkpoint.reader import DTYPES, read_rows


def is_same_weight(adapter: Adapter, key: str, target: ModelFolder, name: str) -> bool:
    """Compare a tensor of the adapter, in the target's precision, with one of the target, tile by tile."""
    file = adapter.file_of(key)
    info = target[name]
    step = tile_rows(info.numel // max(info.rows, 1), MERGE_TILE)
    spans = ((start, min(start + step, info.rows)) for start in range(0, info.rows, step))
    return all(
        torch.equal(read_rows(file, key, *span).to(DTYPES[info.dtype]), read_rows(target, name, *span))
        for span in spans
    )
