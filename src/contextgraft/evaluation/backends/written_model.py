"""A graft in memory as a folder, for a server that reads files."""

import json
from collections import defaultdict
from pathlib import Path

from contextgraft.checkpoint.model_folder import MODEL_INDEX
from contextgraft.checkpoint.writer import order, write_tensors
from contextgraft.evaluation.models import EvalModel


def write_model(model: EvalModel, parent: Path) -> Path:
    """Write a model with `tensors` into a new folder of `parent`, in the files of its target; the folder.

    Its small files become links. Tensors are computed and written one at a time.
    """
    assert model.tensors is not None
    folder = parent / "model"
    folder.mkdir()
    for file in model.path.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    with model.tensors() as tensors:
        shards: dict[str, list[str]] = defaultdict(list)
        for name, tensor in tensors.items():
            shards[tensor.info.shard].append(name)
        for shard, names in shards.items():
            specs = {name: (tensors[name].dtype, tuple(tensors[name].info.shape)) for name in names}
            values = (tensors[name][...] for name in order(specs))
            write_tensors(folder / shard, specs, values, durable=False)
    if len(shards) > 1:
        files = {name: shard for shard, names in shards.items() for name in names}
        (folder / MODEL_INDEX).unlink(missing_ok=True)
        (folder / MODEL_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder
