"""Peak speeds of GPUs, by the name that their driver gives them."""

import re

from contextgraft.planning.hardware import H100_FLOPS

# Dense operations a second in bfloat16, of NVIDIA's data sheets: half of the figures there with the footnote
# "with sparsity". Pages: nvidia.com/en-us/data-center/{a30,a40,a100,l4,l40s,h100,h200,dgx-b200}. The words
# of a row must all be in the name; of several rows the first is taken.
PEAKS: tuple[tuple[frozenset[str], float], ...] = (
    (frozenset({"B200"}), 2250e12),
    (frozenset({"H200", "NVL"}), 835.5e12),
    (frozenset({"H200"}), H100_FLOPS),
    (frozenset({"H100", "NVL"}), 835.5e12),
    (frozenset({"H100", "PCIe"}), 756e12),
    (frozenset({"H100"}), H100_FLOPS),
    (frozenset({"A100"}), 312e12),
    (frozenset({"A40"}), 149.7e12),
    (frozenset({"A30"}), 165e12),
    (frozenset({"L40S"}), 362e12),
    (frozenset({"L4"}), 121e12),
)
PART = "MIG"  # in the name of a part of a card, whose peak is not the card's


def peak_flops(name: str) -> float | None:
    """Peak of a whole card in bfloat16, FLOP/s, by its name (`NVIDIA H100 80GB HBM3`); None if not listed."""
    words = set(re.split(r"[ -]", name))
    if PART in words:
        return None
    return next((peak for card, peak in PEAKS if card <= words), None)
