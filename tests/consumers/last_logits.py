"""Run by an older transformers: prints the logits of a model's last token as JSON.

Arguments: the number of tokens, then the folder.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM


def last_logits(folder: str, length: int) -> list[float]:
    """Logits of the last of `length` tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    tokens = torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        values: list[float] = model(tokens).logits[0, -1].tolist()
    return values


if __name__ == "__main__":
    print(json.dumps(last_logits(sys.argv[2], int(sys.argv[1]))))
