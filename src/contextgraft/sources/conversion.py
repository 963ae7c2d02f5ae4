"""What a fetch makes of weights that no other command can use as they are stored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Conversion:
    """`convert_pickles`: to safetensors, running none of their code. `dequantise`: FP8 to bfloat16."""

    convert_pickles: bool = False
    dequantise: bool = False

    def pickles(self, source: Path, folder: Path) -> tuple[str, ...]:
        """Names of the pickles of `source` that became safetensors in `folder`; none unless wanted."""
        if not self.convert_pickles:
            return ()
        from contextgraft.sources.pickles.convert import convert_weights

        return convert_weights(source, folder)

    def fp8(self, folder: Path, source: Path | str) -> bool:
        """Whether the weights in `folder`, which came from `source`, were FP8 and are bfloat16 now."""
        if not self.dequantise:
            return False
        from contextgraft.sources.dequantise import dequantise

        return dequantise(folder, source)


AS_STORED = Conversion()


def conversion_facts(pickles: tuple[str, ...], *, dequantised: bool) -> dict[str, Any]:
    """The keys of a record: names of the pickles, if there were any, and the dtype of dequantised weights."""
    converted = {"converted_from": list(pickles)} if pickles else {}
    return {"dequantised_to": "bfloat16" if dequantised else None, **converted}
