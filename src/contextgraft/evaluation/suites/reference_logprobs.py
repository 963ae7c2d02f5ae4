"""The reference's predictions on disk, so that only one model is in memory at a time.

Legend of shape suffixes: B prompts of one length, C tokens of a chunk, V vocabulary.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.lib import format as npy

from contextgraft.checkpoint.digest import file_digest, json_digest
from contextgraft.errors import InputChanged, ReadError, raise_read_error
from contextgraft.evaluation.backends.logprobs import forward_batches, kl_divergence, logprob_chunks

Ids = Sequence[int]


@dataclass(frozen=True)
class LogprobSpec:
    """What two models' predictions must have in common: `ids` is a digest of the prompts' token ids."""

    ids: str
    tokens: int
    vocabulary: int


@dataclass(frozen=True)
class ReferencePaths:
    """The files of one reference and one set of prompts: an array [tokens, vocabulary], its spec as JSON."""

    array: Path
    note: Path

    def ready(self) -> bool:
        """Whether they were written to the end, and are as they were written."""
        try:
            return bool(json.loads(self.note.read_bytes())["digest"] == file_digest(self.array))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise_read_error(error, self.array)
            return False


def reference_paths(work: Path, digest: str) -> ReferencePaths:
    """Where predictions of that digest are written."""
    return ReferencePaths(work / f"reference-{digest}.npy", work / f"reference-{digest}.json")


class LogprobWriter:
    """Writes predictions in any order; they can be read only after `finish`.

    Predictions are float32, so that a model has distance 0 from itself; float16 would add 2e-6 nats of
    rounding. A full disk raises OSError, which a memory map would not.
    """

    def __init__(self, paths: ReferencePaths, spec: LogprobSpec) -> None:
        self._paths = paths
        self._spec = spec
        self._partial = paths.array.with_suffix(".part")
        self._file = self._partial.open("wb")
        header = {"descr": "<f4", "fortran_order": False, "shape": (spec.tokens, spec.vocabulary)}
        npy.write_array_header_2_0(self._file, header)
        self._begin = self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def put(self, token: int, logs_CV: torch.Tensor) -> None:
        """Write the log-probabilities after the tokens from number `token` on."""
        self._file.seek(self._begin + token * self._spec.vocabulary * 4)
        self._file.write(logs_CV.cpu().numpy().astype("<f4", copy=False).data)

    def finish(self) -> None:
        """Write the spec and move the array to its final path."""
        self._file.flush()
        note = {**vars(self._spec), "digest": file_digest(self._partial)}
        self._paths.note.write_text(json.dumps(note, sort_keys=True), encoding="utf-8")
        self._partial.replace(self._paths.array)


class LogprobReader:
    """Predictions that were written, read from disk as they are needed."""

    def __init__(self, paths: ReferencePaths) -> None:
        note = json.loads(paths.note.read_text(encoding="utf-8"))
        self.spec = LogprobSpec(note["ids"], note["tokens"], note["vocabulary"])
        self._path = paths.array

    def get(self, token: int, count: int) -> torch.Tensor:
        """Log-probabilities after `count` tokens from number `token` on, [count, V].

        They are read, not mapped into memory: where the disk fails, that would kill the process.
        """
        logs_CV = np.empty((count, self.spec.vocabulary), "<f4")
        try:
            with self._path.open("rb") as file:
                npy.read_magic(file)
                npy.read_array_header_2_0(file)
                file.seek(token * self.spec.vocabulary * 4, os.SEEK_CUR)
                whole = file.readinto(logs_CV.data.cast("B")) == logs_CV.nbytes
        except OSError as error:
            raise ReadError(self._path, error) from None
        if not whole:
            raise InputChanged(self._path)
        return torch.from_numpy(logs_CV)


def logprob_spec(prompts: Sequence[Ids], vocabulary: int) -> LogprobSpec:
    """The spec of a model's predictions for these prompts."""
    ids = json_digest([list(prompt) for prompt in prompts])
    return LogprobSpec(ids, sum(map(len, prompts)), vocabulary)


@dataclass(frozen=True)
class PlacedPrompt:
    """A prompt with its index in the list, and the number of its first token among those of all prompts."""

    index: int
    first: int
    ids: Ids


@dataclass
class DivergenceSums:
    """Over the tokens of a prompt: divergences in nats, and tokens after which both models' argmax agrees."""

    divergence: float = 0.0
    same: int = 0


def prompt_batches(prompts: Sequence[Ids]) -> Iterator[Sequence[PlacedPrompt]]:
    """Prompts of equal length in batches, each as large as one forward pass takes."""
    firsts = accumulate(map(len, prompts), initial=0)
    placed = [
        PlacedPrompt(index, first, ids)
        for index, (ids, first) in enumerate(zip(prompts, firsts, strict=False))
    ]
    by_length = sorted(placed, key=lambda prompt: len(prompt.ids))
    for length, group in groupby(by_length, lambda prompt: len(prompt.ids)):
        yield from forward_batches(list(group), length)


def write_reference(model: Any, prompts: Sequence[Ids], paths: ReferencePaths, spec: LogprobSpec) -> None:
    """Write what a model predicts after every token of every prompt."""
    with LogprobWriter(paths, spec) as writer:
        for batch in prompt_batches(prompts):
            for start, logs_BCV in logprob_chunks(model, batch_ids(model, batch)):
                for placed, logs_CV in zip(batch, logs_BCV, strict=True):
                    writer.put(placed.first + start, logs_CV)
        writer.finish()


def compare_batch(model: Any, batch: Sequence[PlacedPrompt], reader: LogprobReader) -> list[DivergenceSums]:
    """Sums over the tokens of each prompt of a batch."""
    sums = [DivergenceSums() for _ in batch]
    for start, logs_BCV in logprob_chunks(model, batch_ids(model, batch)):
        for placed, logs_CV, total in zip(batch, logs_BCV, sums, strict=True):
            reference_CV = reader.get(placed.first + start, len(logs_CV)).to(logs_CV.device)
            total.divergence += float(kl_divergence(reference_CV, logs_CV).double().sum())
            total.same += int((reference_CV.argmax(dim=-1) == logs_CV.argmax(dim=-1)).sum())
    return sums


def batch_ids(model: Any, batch: Sequence[PlacedPrompt]) -> torch.Tensor:
    """Token ids of prompts of one length, on the model's device."""
    return torch.tensor([placed.ids for placed in batch], device=model.device)
