"""A graft that is not written: what its folder would hold, and the digests that it would have."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from contextgraft.adapter.in_memory.tensors import graft_evidence, open_graft_tensors
from contextgraft.adapter.merge.kernels.evidence import TensorEvidence
from contextgraft.adapter.merge.manifest import (
    graft_manifest,
    graft_origin,
    planned_facts,
    write_small_files,
)
from contextgraft.adapter.merge.plan import MergePlan
from contextgraft.checkpoint.input_files import InputFiles
from contextgraft.checkpoint.model_folder import MODEL_CONFIG, ModelFolder, read_json
from contextgraft.checkpoint.reader import LazyTensor


@dataclass(frozen=True)
class GraftInMemory:
    """A planned graft; `folder` holds its config, tokenizer and other small files.

    `lengths` are those of its tokenizer before and after, `target_digests` those of the target's tensors,
    `threads` the tensors computed at once.
    """

    plan: MergePlan
    folder: Path
    lengths: Mapping[str, list[Any]]
    target_digests: Mapping[str, str]
    threads: int

    @property
    def model(self) -> ModelFolder:
        """The folder as it would be with weights: for whatever reads configs, names and shapes only."""
        plan = self.plan
        tensors = dict(plan.layout.tensors)
        return ModelFolder(
            self.folder,
            read_json(self.folder / MODEL_CONFIG),
            tensors,
            plan.target.shards,
            {name: info.shard for name, info in tensors.items()},
            plan.copied,
            InputFiles.combined(plan.target.inputs, *(scaled.adapter.inputs for scaled in plan.adapters)),
        )

    @cached_property
    def evidence(self) -> dict[str, TensorEvidence]:
        """What `merge` would record of every tensor; computes each changed tensor once."""
        return graft_evidence(self.plan, self.target_digests, self.threads)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digest of every tensor."""
        return {name: evidence.digest_after for name, evidence in self.evidence.items()}

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest that `merge` would write with the graft, on the CPU."""
        records = {name: asdict(evidence) for name, evidence in self.evidence.items()}
        files = planned_facts(self.plan, self.folder)
        return graft_manifest(self.plan, records, self.lengths, files, "cpu")

    @property
    def origin(self) -> dict[str, Any]:
        """The keys `adapters` and `target` of the manifest that `merge` would write."""
        return graft_origin(self.plan, self.target_digests)

    @contextmanager
    def tensors(self) -> Iterator[dict[str, LazyTensor]]:
        """Every tensor by name, computed when it is read inside the block."""
        with open_graft_tensors(self.plan, self.digests, self.threads) as tensors:
            yield tensors


def prepare_graft(
    plan: MergePlan, folder: Path, target_digests: Mapping[str, str], threads: int
) -> GraftInMemory:
    """Write the small files of a planned graft into `folder`, which is made; no weight is read.

    Files that stay as they are become links: a folder may hold large files that no reader of the model needs.
    """
    folder.mkdir(parents=True)
    lengths = write_small_files(plan, folder, _link)
    return GraftInMemory(plan, folder, lengths, target_digests, threads)


def _link(folder: Path, name: str, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to((folder / name).resolve())
