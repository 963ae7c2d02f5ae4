"""Copy the files of a model folder."""

import shutil
from pathlib import Path

from contextgraft.checkpoint.model_folder import MODEL_CONFIG, MODEL_INDEX, PICKLES, open_model
from contextgraft.formats.sidecar import SIDECAR


def copy_model(source: Path, folder: Path) -> None:
    """Copy config, index, shards and the other files (tokenizer, licence) of a checked model folder.

    Not copied: pickles, and the source's contextgraft.json, because the copy gets its own. Missing and
    malformed files raise the errors of `checkpoint.model_folder.open_model`.
    """
    model = open_model(source)
    index = (MODEL_INDEX,) if (source / MODEL_INDEX).exists() else ()
    others = (name for name in model.others if name != SIDECAR and not name.endswith(PICKLES))
    for name in (MODEL_CONFIG, *index, *model.shards, *others):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
