"""A base and a donor that fit each other, and what there is to read: all known before any weight is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from contextgraft.adapter.architecture import architecture, check_architecture, check_shape
from contextgraft.adapter.extract.delta import DELTA_TILE
from contextgraft.adapter.extract.rank_spec import TensorSelection
from contextgraft.checkpoint.model_folder import ModelFolder, open_model
from contextgraft.checkpoint.safetensors_header import ITEM_BYTES
from contextgraft.checkpoint.vocabulary import correspondence, read_vocabulary
from contextgraft.errors import InputError, MismatchError
from contextgraft.formats.tensor_names import BY_TOKEN, FACTORISED, TensorRole
from contextgraft.rope import settings

LIBRARY_BYTES = 1 << 27  # what the linear algebra library takes for itself
DELTA_CACHE_BYTES = (
    80 << 20
)  # what a thread may hold of one delta: tiles kept for later passes, and the basis


@dataclass(frozen=True)
class ModelPair:
    """Tensor names by kind; `unpaired` are ignored tensors of one side only, or of different shapes.

    `donor_rows` says which row of the donor's embeddings stands for each row of the base's, if they differ.
    """

    base: ModelFolder
    donor: ModelFolder
    selection: TensorSelection
    names_by_role: dict[TensorRole, tuple[str, ...]]
    unpaired: tuple[str, ...]
    donor_rows: Sequence[int] | None

    @cached_property
    def factorised(self) -> tuple[str, ...]:
        """Names of the tensors that get factors."""
        return tuple(name for kind in FACTORISED for name in self.names_by_role[kind])

    @property
    def bytes_to_read(self) -> int:
        """Bytes of both models, each counted once."""
        return sum(info.bytes for side in (self.base, self.donor) for info in side.tensors.values())

    def factor_bytes(self, rank: int) -> int:
        """Bytes of the factors of one adapter, if every module has this rank or that of its smaller side."""
        infos = [self.donor[name] for name in self.factorised]
        return sum(
            min(rank, *info.shape) * sum(self.base[info.name].shape) * ITEM_BYTES[info.dtype]
            for info in infos
        )

    def size_key(self, name: str) -> tuple[int, str]:
        """What to sort by, so that the largest tensors come last."""
        return self.base[name].numel, name

    def rows_for(self, name: str) -> Sequence[int] | None:
        """The donor's rows for a tensor whose rows are tokens; None where rows correspond as they stand."""
        by_token = any(name in self.names_by_role[kind] for kind in BY_TOKEN)
        return self.donor_rows if by_token else None

    def keep_bytes(self, name: str, rank: int, held: int) -> int:
        """What may be kept of a delta beside its basis, so that both together take `held` bytes."""
        return max(0, held - self._basis_bytes(name, rank))

    def peak_bytes(self, rank: int, threads: int) -> int:
        """Estimate of the memory beyond the program's own: tiles, what is held of a delta, and factors."""
        basis = max(self._basis_bytes(name, rank) for name in self.factorised)
        return LIBRARY_BYTES + threads * (max(DELTA_CACHE_BYTES, basis) + basis + 16 * DELTA_TILE)

    def _basis_bytes(self, name: str, rank: int) -> int:
        """About what the iteration takes at a rank: two bases of two and a half times that width."""
        return 12 * max(rank, 16) * sum(self.base[name].shape)


def open_pair(base_path: Path, donor_path: Path, selection: TensorSelection | None = None) -> ModelPair:
    """Open both; other architectures, shapes or unreadable RoPE settings raise before any weight is read."""
    selection = selection or TensorSelection()
    base, donor = open_model(base_path), open_model(donor_path)
    check_architecture(donor, f"the base {base_path}", architecture(base.config))
    for folder in (base, donor):
        settings.read(folder.config)
    names: dict[TensorRole, list[str]] = {each: [] for each in TensorRole}
    unpaired = []
    for name in sorted({*base.tensors, *donor.tensors}):
        sides = [folder.tensors[name] for folder in (base, donor) if name in folder.tensors]
        what = selection.role(sides[0], base_path if name in base.tensors else donor_path)
        fits = len(sides) == 2 and sides[0].shape == sides[1].shape
        if what is TensorRole.IGNORED and not fits:
            unpaired.append(name)
            continue
        if name not in base.tensors:
            raise MismatchError(f"lacks tensor {name!r}", path=base_path, remedy=f"{donor_path} has it")
        shape = base[name].shape
        if what in BY_TOKEN and name in donor.tensors:
            shape = (donor[name].rows, *shape[1:])  # another number of tokens is no misfit
        check_shape(donor, name, f"the base {base_path}", shape)
        selection.role(donor[name], donor_path)  # a quantised donor is refused by name
        names[what].append(name)
    found = {each: tuple(found) for each, found in names.items()}
    _refuse_nothing(base_path, found, selection)
    return ModelPair(base, donor, selection, found, tuple(unpaired), _donor_rows(base, donor, found))


def _refuse_nothing(path: Path, names: dict[TensorRole, tuple[str, ...]], selection: TensorSelection) -> None:
    if selection.embeddings and not any(names[kind] for kind in BY_TOKEN):
        raise InputError(
            "has no such embeddings",
            path=path,
            expected=" or ".join(f"{kind} embeddings" for kind in selection.embeddings),
            received="tied or missing ones",
            remedy="leave --embeddings out, or take the input embeddings, which a tied model shares",
        )
    if not any(names[kind] for kind in FACTORISED):
        raise InputError(
            "has no linear weights in layers that are selected",
            path=path,
            expected="...layers.<n>...weight with two dimensions",
        )


def _donor_rows(
    base: ModelFolder, donor: ModelFolder, names: dict[TensorRole, tuple[str, ...]]
) -> list[int] | None:
    by_token = [name for kind in BY_TOKEN for name in names[kind]]
    if not by_token:
        return None
    for folder in (base, donor):
        counts = {folder[name].rows for name in by_token}
        if len(counts) > 1:
            raise MismatchError(
                "has embeddings of different lengths, whose tokens cannot be told apart",
                path=folder.path, received=f"{sorted(counts)} rows", remedy="carry one of them",
            )  # fmt: skip
    sides = [(read_vocabulary(folder), folder[by_token[0]].rows) for folder in (base, donor)]
    return correspondence(sides[0], sides[1])
