"""Run by an older transformers: prints the logits of the last tokens of models as JSON, or why one fails.

Arguments: folders. Each model reads a short text and one past its base's context.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM

LENGTHS = (12, 200)


def last_logits(folder: str) -> list[list[float]]:
    """Logits of the last token of each text."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    result = []
    for length in LENGTHS:
        tokens = torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            result.append(model(tokens).logits[0, -1].tolist())
    return result


def result_or_error(folder: str) -> object:
    """The logits, or the error's text."""
    try:
        return last_logits(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    print(json.dumps({folder: result_or_error(folder) for folder in sys.argv[1:]}))
