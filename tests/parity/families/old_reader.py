"""Run by an older transformers: how far logits of grafts are from those of donors in a newer one.

Arguments: folders, each with graft/ and expected.safetensors (logits by number of tokens). One line of JSON
for each: what `reading` says.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

TOLERANCE = 1e-3  # older versions compute some activations otherwise; another theta makes a hundredth
ABSENT = "not in this version"
RIGHT = "right"
ALIKE = "the donor alike"
ALONE = "the graft alone"
LENGTHS = (12, 300)


def tokens_of(length: int) -> torch.Tensor:
    """The tokens whose logits are compared."""
    return torch.randint(3, 60, (1, length), generator=torch.Generator().manual_seed(5))


def opened(folder: Path) -> Any:
    """The model, with every weight from the folder; a weight that is not there raises ValueError."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model_class = getattr(transformers, config.architectures[0])
    model, info = model_class.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"looks for weights under other names: {min(info['missing_keys'])}")
    return model.eval()


def logits(folder: Path) -> dict[int, torch.Tensor] | str:
    """The logits by number of tokens, or why the folder cannot be read."""
    try:
        model = opened(folder)
        with torch.no_grad():
            return {length: model(tokens_of(length), use_cache=False).logits for length in LENGTHS}
    except Exception as error:
        text = re.sub(r"\{.*", "", " ".join(str(error).split()))
        return f"{type(error).__name__}: {text}"[:110].rstrip(" =")


def is_known(config: dict[str, Any]) -> bool:
    """Whether this version has the classes of a model."""
    types = {config["model_type"], config.get("text_config", {}).get("model_type", config["model_type"])}
    has_class = hasattr(transformers, config["architectures"][0])
    return has_class and all(model_type in transformers.CONFIG_MAPPING for model_type in types)


def reading(root: Path) -> str:
    """RIGHT, ABSENT, why graft and donor or the graft alone cannot be read, or where its logits differ."""
    if not is_known(json.loads((root / "graft/config.json").read_text())):
        return ABSENT
    graft = logits(root / "graft")
    expected = {int(length): tensor for length, tensor in load_file(root / "expected.safetensors").items()}
    if not isinstance(graft, str) and _distance(graft, expected) < TOLERANCE:
        return RIGHT
    if isinstance(graft, str):
        return f"{ALIKE if isinstance(logits(root / 'donor'), str) else ALONE}: {graft}"
    lengths = [length for length in LENGTHS if _distance(graft, expected, (length,)) >= TOLERANCE]
    return f"other logits at {' and '.join(map(str, lengths))} tokens"


def _distance(
    some: dict[int, torch.Tensor], others: dict[int, torch.Tensor], lengths: Sequence[int] = LENGTHS
) -> float:
    return max(float((some[length] - others[length]).abs().max()) for length in lengths)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(json.dumps({folder: reading(Path(folder))}), flush=True)
