"""Write the trained model folder: new RoPE settings, weights in the base's dtype, tokenizer, sidecar."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from contextgraft._version import __version__
from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.digest import model_digest
from contextgraft.checkpoint.model_folder import ModelFolder, open_model, read_json
from contextgraft.checkpoint.reader import DTYPES, read_tensor
from contextgraft.checkpoint.writer import order
from contextgraft.config.training import Recipe
from contextgraft.formats.model.copied_files import split_files
from contextgraft.formats.model.own_files import copy_own_file
from contextgraft.formats.model.sharded_weights import MAX_SHARD_SIZE, write_weights
from contextgraft.formats.model_card.cards import card_of
from contextgraft.formats.model_card.licence import CARD
from contextgraft.formats.sidecar import SIDECAR, identity, sidecar
from contextgraft.formats.tensor_names import input_embedding, output_embedding
from contextgraft.rope import settings
from contextgraft.rope.config_form import apply_rope
from contextgraft.rope.context_files import CONTEXT_FILES, LENGTH, TOKENIZER_CONFIG
from contextgraft.rope.settings import RopeSettings
from contextgraft.training.lora import merged_weight
from contextgraft.training.result.adapter_folder import write_adapter_folder
from contextgraft.training.state import METRICS_FILE


def write_folder(
    work: Path,
    *,
    base: ModelFolder,
    trained: Mapping[str, torch.Tensor],
    rope: RopeSettings,
    recipe: Recipe,
    dtype: str,
    datasets: Sequence[Mapping[str, Any]],
    max_shard_size: float = MAX_SHARD_SIZE,
) -> None:
    """Write every file of the result into `work`.

    `trained` has the trained parameters by name; everything else is copied from the base. One tensor at a
    time is in memory, and of `trained` one parameter, or the two factors of a matrix. `dtype` is that of the
    activations; `datasets` are the records of data sets that were fetched; `max_shard_size` in bytes is the
    size above which weights are several files.
    """
    specs = {name: (DTYPES[info.dtype], tuple(info.shape)) for name, info in base.tensors.items()}
    weights = (_weight(name, base, trained, recipe) for name in order(specs))
    write_weights(work, specs, weights, max_shard_size)
    write_json(work / "config.json", apply_rope(base.config, rope))
    carried, _ = split_files(base.others)  # other weights, adapter and card describe another model
    for name in carried:
        if name not in (METRICS_FILE, *CONTEXT_FILES):
            copy_own_file(base.path, name, work / name)
    for name in sorted(set(CONTEXT_FILES) & set(base.others)):
        before = read_json(base.path / name)
        unlimited = name == TOKENIZER_CONFIG and LENGTH not in before
        after = before if unlimited else CONTEXT_FILES[name](before, rope.context)
        if name == TOKENIZER_CONFIG or after != before:
            write_json(work / name, after)
        else:
            copy_own_file(base.path, name, work / name)
    record = sidecar(
        "trained",
        name=recipe.name,
        base=identity(base),
        digest=model_digest(open_model(work)),
        recipe=recipe.model_dump(mode="json"),
        seed=recipe.seed,
        steps=sum(stage.steps for stage in recipe.stages),
        rope=settings.to_record(rope),
        **({} if dtype == "float32" else {"dtype": dtype}),
        **({"data": list(datasets)} if datasets else {}),
        versions={
            "contextgraft": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )
    write_json(work / SIDECAR, record)
    (work / CARD).write_text(card_of(record), encoding="utf-8")
    if recipe.lora is not None:
        write_adapter_folder(work, base, trained, recipe.lora)


def _weight(
    name: str, base: ModelFolder, trained: Mapping[str, torch.Tensor], recipe: Recipe
) -> torch.Tensor:
    parameter = name
    if output_embedding([name]) and base.config.get("tie_word_embeddings", False):
        parameter = input_embedding(base.tensors) or name
    weight = merged_weight(parameter, partial(read_tensor, base, name), trained, recipe.lora)
    return weight.detach().to(DTYPES[base[name].dtype])
