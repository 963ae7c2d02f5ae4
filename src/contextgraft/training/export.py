"""The finished model folder: new rotary settings, weights in the base's dtype, tokenizer, identity."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from contextgraft._version import __version__
from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.digest import model_digest
from contextgraft.checkpoint.model_folder import MODEL_WEIGHTS, ModelFolder, open_model
from contextgraft.checkpoint.writer import save_tensors
from contextgraft.config.training import Recipe
from contextgraft.formats.sidecar import SIDECAR, identity, sidecar
from contextgraft.formats.tensor_names import input_embedding, output_embedding
from contextgraft.rope import settings
from contextgraft.rope.settings import RopeSettings
from contextgraft.training import lora
from contextgraft.training.model import read_weights

METRICS = "metrics.jsonl"
TOKENIZER = "tokenizer_config.json"


def write_folder(
    work: Path,
    *,
    base: ModelFolder,
    learnt: Mapping[str, torch.Tensor],
    rope: RopeSettings,
    recipe: Recipe,
    dtype: str,
    data: Sequence[Mapping[str, Any]],
) -> None:
    """Write every file of the result into `work`: `learnt` is what moved, all else is the base's.

    `dtype` is that of activations; `data` is what is known of data sets that were fetched.
    """
    own = read_weights(base)
    changed = lora.merged(learnt, own, recipe.lora)
    weights = {
        name: changed.get(_tied(name, base), tensor).detach().to(tensor.dtype).contiguous()
        for name, tensor in own.items()
    }
    save_tensors(work / MODEL_WEIGHTS, weights)
    write_json(work / "config.json", settings.apply(base.config, rope))
    for name in base.others:
        if name not in (SIDECAR, METRICS, TOKENIZER):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base.path / name, work / name)
    if TOKENIZER in base.others:
        write_json(work / TOKENIZER, _lengthened(base.path / TOKENIZER, rope.max_positions))
    write_json(
        work / SIDECAR,
        sidecar(
            "trained",
            name=recipe.name,
            base=identity(base),
            digest=model_digest(open_model(work)),
            recipe=recipe.model_dump(mode="json"),
            seed=recipe.seed,
            steps=sum(stage.steps for stage in recipe.stages),
            rope=settings.to_json(rope),
            **({} if dtype == "float32" else {"dtype": dtype}),
            **({"data": list(data)} if data else {}),
            versions={
                "contextgraft": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        ),
    )


def _tied(name: str, base: ModelFolder) -> str:
    """The parameter a stored tensor shares: a tied output layer is the input embedding."""
    tied = output_embedding([name]) and base.config.get("tie_word_embeddings", False)
    return (input_embedding(base.tensors) or name) if tied else name


def _lengthened(path: Path, length: int) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "model_max_length" in config:
        config["model_max_length"] = max(config["model_max_length"], length)
    return config
