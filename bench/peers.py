"""The peers, each in a process of its own: `python bench/peers.py NAME ARGUMENTS`."""

import sys
from pathlib import Path


def peft_merge(target: str, adapter: str, out: str) -> None:
    """Load the whole model, merge and save: what the published script does."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)


def read(*folders: str) -> None:
    """Read every byte of some folders once, and do nothing with them."""
    buffer = bytearray(1 << 22)
    for file in (file for folder in folders for file in Path(folder).glob("*.safetensors")):
        with file.open("rb", buffering=0) as handle:
            while handle.readinto(buffer):
                pass


PEERS = {"peft_merge": peft_merge, "read": read}

if __name__ == "__main__":
    PEERS[sys.argv[1]](*sys.argv[2:])
