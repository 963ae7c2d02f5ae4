"""The results of one run as a file: what docs/benchmarks.md is held to."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from floors import Machine
from measure import Cost


@dataclass(frozen=True)
class Measured:
    """The machine, the bytes of one model's weights by shape, and costs by shape and program."""

    machine: Machine
    sizes: Mapping[str, int]
    costs: Mapping[str, Mapping[str, Cost]]

    def write(self, path: Path) -> None:
        """Write the results as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Measured":
        """Read what `write` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        costs = {
            shape: {name: Cost(**cost) for name, cost in of_shape.items()}
            for shape, of_shape in data["costs"].items()
        }
        return cls(Machine(**data["machine"]), data["sizes"], costs)
