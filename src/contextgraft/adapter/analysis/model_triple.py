"""A base, a donor and a fine-tune that fit each other, opened by their headers alone."""

from dataclasses import dataclass
from pathlib import Path

from contextgraft.adapter.extract.model_pair import ModelPair, open_pair
from contextgraft.adapter.extract.rank_spec import TensorSelection
from contextgraft.formats.tensor_names import TensorRole


@dataclass(frozen=True)
class ModelTriple:
    """A base, a donor and a fine-tune of one architecture; `names` are the compared tensors."""

    donor: ModelPair
    target: ModelPair

    @property
    def names(self) -> tuple[str, ...]:
        """Selected tensors, in order; ignored ones are not among them."""
        return tuple(
            sorted(
                n
                for kind, names in self.donor.names_by_role.items()
                if kind != TensorRole.IGNORED
                for n in names
            )
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        """Tensors of any of the models that are not compared."""
        folders = self.donor.base, self.donor.donor, self.target.donor
        everything = {name for folder in folders for name in folder.tensors}
        return tuple(sorted(everything - set(self.names)))

    @property
    def bytes_to_read(self) -> int:
        """Bytes of all models, each counted once."""
        folders = self.donor.base, self.donor.donor, self.target.donor
        return sum(info.bytes for folder in folders for info in folder.tensors.values())

    def bytes_of(self, name: str) -> int:
        """Bytes of one tensor in all models."""
        return sum(folder[name].bytes for folder in (self.donor.base, self.donor.donor, self.target.donor))


def open_triple(
    base: Path, donor: Path, target: Path, selection: TensorSelection | None = None
) -> ModelTriple:
    """Open the models; one that does not fit the base raises MismatchError before any weight is read."""
    return ModelTriple(open_pair(base, donor, selection), open_pair(base, target, selection))
