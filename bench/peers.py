"""What people use today, as small programs to be timed: PEFT's merge, and mergekit's full SVD."""

import sys
from pathlib import Path


def peft_merge(target: str, adapter: str, out: str) -> None:
    """PEFT `merge_and_unload` and `save_pretrained`: the published 58-line script in its essence."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)


def full_svd(base: str, donor: str, rank: str) -> None:
    """Subtract, full SVD of every delta, keep one rank: the method of mergekit-extract-lora, less its I/O."""
    import torch
    from safetensors import safe_open

    for shard in sorted(Path(base).glob("*.safetensors")):
        with (
            safe_open(shard, "pt") as before,
            safe_open(Path(donor) / shard.name, "pt") as after,
        ):
            for name in before.keys():  # noqa: SIM118 - not a dict
                if ".layers." not in name or len(before.get_slice(name).get_shape()) != 2:
                    continue
                delta = after.get_tensor(name).float() - before.get_tensor(name).float()
                U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
                _ = U[:, : int(rank)] * S[: int(rank)], Vh[: int(rank)]


PEERS = {"peft_merge": peft_merge, "full_svd": full_svd}

if __name__ == "__main__":
    PEERS[sys.argv[1]](*sys.argv[2:])
