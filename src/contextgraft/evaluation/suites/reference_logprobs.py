"""The reference's predictions on disk, so that only one model is in memory at a time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.lib import format as npy


@dataclass(frozen=True)
class Shape:
    """What two models' predictions must have in common: `ids` is a digest of the prompts' token ids."""

    ids: str
    tokens: int
    vocabulary: int


@dataclass(frozen=True)
class Place:
    """Where predictions lie: an array [tokens, vocabulary] and a note of its shape."""

    array: Path
    note: Path

    def ready(self) -> bool:
        """Whether they were written to the end."""
        return self.array.exists() and self.note.exists()


def place(work: Path, digest: str) -> Place:
    """The files of one reference and one set of prompts."""
    return Place(work / f"reference-{digest}.npy", work / f"reference-{digest}.json")


class Writer:
    """Predictions as they come, in any order; they are there only after `finish`.

    In float32 a model is at no distance from itself; float16 would add 2e-6 nats of rounding. A full disk
    raises OSError, which a memory map would not.
    """

    def __init__(self, where: Place, shape: Shape) -> None:
        self._where = where
        self._shape = shape
        self._partial = where.array.with_suffix(".part")
        self._file = self._partial.open("wb")
        header = {"descr": "<f4", "fortran_order": False, "shape": (shape.tokens, shape.vocabulary)}
        npy.write_array_header_2_0(self._file, header)
        self._begin = self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def put(self, token: int, logs_CV: torch.Tensor) -> None:
        """Log-probabilities after the tokens from number `token` on."""
        self._file.seek(self._begin + token * self._shape.vocabulary * 4)
        self._file.write(logs_CV.cpu().numpy().astype("<f4", copy=False).data)

    def finish(self) -> None:
        """Make them known."""
        self._file.flush()
        note = self._where.note
        note.write_text(json.dumps(vars(self._shape), sort_keys=True), encoding="utf-8")
        self._partial.replace(self._where.array)


class Reader:
    """Predictions that were written, read from disk as they are needed."""

    def __init__(self, where: Place) -> None:
        self.shape = Shape(**json.loads(where.note.read_text(encoding="utf-8")))
        self._array = np.load(where.array, mmap_mode="r")

    def get(self, token: int, count: int) -> torch.Tensor:
        """Log-probabilities after `count` tokens from number `token` on, [count, V]."""
        return torch.from_numpy(np.array(self._array[token : token + count]))
