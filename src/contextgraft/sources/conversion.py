"""What a fetch makes of weights that no other command can use as they are stored."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Conversion:
    """`convert_pickles`: to safetensors, running none of their code. `dequantise`: FP8 to bfloat16."""

    convert_pickles: bool = False
    dequantise: bool = False


AS_STORED = Conversion()


def conversion_facts(pickles: tuple[str, ...], *, dequantised: bool) -> dict[str, Any]:
    """The keys of a record: names of the pickles, if there were any, and the dtype of dequantised weights."""
    converted = {"converted_from": list(pickles)} if pickles else {}
    return {"dequantised_to": "bfloat16" if dequantised else None, **converted}
