"""Which files of a target a graft takes along, besides its weights, and which could be read for weights."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from contextgraft.checkpoint.model_folder import (
    ADAPTER_CONFIG,
    MODEL_INDEX,
    MODEL_WEIGHTS,
    PICKLES,
    SIDECAR,
    ModelFolder,
)
from contextgraft.checkpoint.safetensors_header import MAX_HEADER
from contextgraft.config.text_file import open_regular
from contextgraft.errors import CheckpointError, ReadError
from contextgraft.formats.model.vocabulary import TOKENIZER
from contextgraft.formats.model_card.licence import CARD
from contextgraft.rope.context_files import GENERATION_CONFIG, TOKENIZER_CONFIG

WEIGHTS = (
    *PICKLES, ".safetensors", ".gguf", ".ggml", ".onnx", ".onnx_data", ".h5", ".msgpack", ".npz", ".ot",
    ".tflite", ".pte", ".nemo", ".distcp", ".mlmodel",
)  # fmt: skip
# files that describe weights which are not copied: with them, readers would load other weights or settings
STALE = re.compile(
    r".+\.index\.json|adapter_(config|model)\..+|params\.json|openvino_.+"  # params.json: of consolidated*
    r"|optimizer\..+|scheduler\..+|trainer_state\.json|zero_to_fp32\.py|latest|events\.out\.tfevents.*"
)

# files of one form that readers fail on where it is broken
READ_BY_TRANSFORMERS = (
    TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG, "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "chat_template.jinja",
)  # fmt: skip


def split_files(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files that a graft takes along, and files that it leaves out; the sidecar is in neither.

    Left out are weights, what describes them, the model card, and every subfolder that holds weights: another
    checkpoint, or the model in another format.
    """
    names = tuple(name for name in names if name != SIDECAR)
    other = {PurePosixPath(name).parts[0] for name in names if "/" in name and _is_stale(name)}
    left_out = tuple(
        name for name in names if name == CARD or _is_stale(name) or PurePosixPath(name).parts[0] in other
    )
    return tuple(name for name in names if name not in left_out), left_out


def check_readable(origins: Mapping[str, Path]) -> None:
    """Raise CheckpointError for a file that a graft takes along, and that transformers could not read.

    `origins` has the folder of each file by its name. Files that transformers does not read are not opened.
    """
    for name in (name for name in READ_BY_TRANSFORMERS if name in origins):
        path = origins[name] / name
        json_expected = name.endswith(".json")
        try:
            with open_regular(path) as file:
                text = file.read(MAX_HEADER).decode("utf-8")
            if json_expected and not isinstance(json.loads(text), dict):
                raise ValueError("no JSON object")
        except OSError as error:
            raise ReadError(path, error) from None
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                "cannot be read, and would be copied", path=path, received=error,
                expected="a JSON object" if json_expected else "text in UTF-8",
                remedy="fetch it again, or remove it",
            ) from None  # fmt: skip


def _is_stale(path: str) -> bool:
    name = PurePosixPath(path).name
    return PurePosixPath(name).suffix in WEIGHTS or STALE.fullmatch(name) is not None or name == SIDECAR


def other_weights(model: ModelFolder, made: str) -> list[str]:
    """A warning for each file with which a reader could load other weights; `made`: "the graft is"."""
    lines = []
    if ADAPTER_CONFIG in model.others:
        lines.append(
            f"{model.path}: holds an adapter ({ADAPTER_CONFIG}), which transformers would load with its "
            f"base instead of these weights; {made} made of the weights, without the adapter"
        )
    if MODEL_INDEX in model.others:
        lines.append(
            f"{model.path}: holds {MODEL_WEIGHTS} and {MODEL_INDEX}; transformers reads the first, and "
            f"{made} made of it"
        )
    return lines
