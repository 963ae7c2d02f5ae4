"""A base and a donor that fit each other, and what there is to read: all known before any weight is read."""

from dataclasses import dataclass
from pathlib import Path

from contextgraft.adapter.architecture import Kind, describe, kind, refuse_other, refuse_shape
from contextgraft.adapter.svd import TILE_ROWS
from contextgraft.checkpoint.layout import ModelFolder, open_model
from contextgraft.errors import InputError, MismatchError
from contextgraft.rope import settings

KEEP_BYTES = 1 << 26  # a delta of up to 64 MiB is read once and kept, a larger one read for each pass
LIBRARIES = 1 << 27  # what the linear algebra library takes for itself


@dataclass(frozen=True)
class Pair:
    """Tensor names by kind; `unpaired` are ignored tensors of one side only, or of different shapes."""

    base: ModelFolder
    donor: ModelFolder
    names: dict[Kind, tuple[str, ...]]
    unpaired: tuple[str, ...]

    @property
    def bytes_to_read(self) -> int:
        """Bytes of both models, each counted once."""
        return sum(info.bytes for side in (self.base, self.donor) for info in side.tensors.values())

    def peak_bytes(self, rank: int, threads: int) -> int:
        """Estimate of the memory beyond the program's own: tiles, kept delta, sketch and factors."""
        width = rank + max(16, rank // 8)
        shapes = [self.base[name].shape for name in self.names[Kind.LINEAR]]
        need = max(
            4 * (min(m * n, KEEP_BYTES // 4) + 6 * TILE_ROWS * n + 5 * width * (m + n)) for m, n in shapes
        )
        return LIBRARIES + threads * need


def pair(base_path: Path, donor_path: Path) -> Pair:
    """Open both; other architectures, shapes or unreadable RoPE settings raise before any weight is read."""
    base, donor = open_model(base_path), open_model(donor_path)
    refuse_other(donor, f"the base {base_path}", describe(base.config))
    for folder in (base, donor):
        settings.read(folder.config)
    names: dict[Kind, list[str]] = {each: [] for each in Kind}
    unpaired = []
    for name in sorted({*base.tensors, *donor.tensors}):
        sides = [folder.tensors[name] for folder in (base, donor) if name in folder.tensors]
        what = kind(sides[0])
        fits = len(sides) == 2 and sides[0].shape == sides[1].shape
        if what is Kind.IGNORED and not fits:
            unpaired.append(name)
            continue
        if name not in base.tensors:
            raise MismatchError(f"lacks tensor {name!r}", path=base_path, remedy=f"{donor_path} has it")
        refuse_shape(donor, name, f"the base {base_path}", base[name].shape)
        kind(donor[name])  # a quantised donor is refused by name
        names[what].append(name)
    if not names[Kind.LINEAR]:
        raise InputError(
            "has no linear weights in layers",
            path=base_path,
            expected="...layers.<n>...weight with two dimensions",
        )
    return Pair(base, donor, {each: tuple(found) for each, found in names.items()}, tuple(unpaired))
