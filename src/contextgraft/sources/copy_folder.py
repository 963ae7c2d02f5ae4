"""A model folder, copied: what a model needs and nothing else."""

import shutil
from pathlib import Path

from contextgraft.checkpoint.identity import SIDECAR
from contextgraft.checkpoint.model_folder import CONFIG, INDEX, PICKLES, open_model


def copy_model(source: Path, folder: Path) -> None:
    """Copy config, index, shards and the other files (tokenizer, licence) of a checked model folder.

    The source's own contextgraft.json stays behind, for the copy gets its own; so do pickles.
    Missing and malformed files raise the errors of `checkpoint.layout.open_model`.
    """
    model = open_model(source)
    index = (INDEX,) if (source / INDEX).exists() else ()
    others = (name for name in model.others if name != SIDECAR and not name.endswith(PICKLES))
    for name in (CONFIG, *index, *model.shards, *others):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
