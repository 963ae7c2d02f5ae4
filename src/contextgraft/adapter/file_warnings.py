"""Where a merge and PEFT's from_pretrained treat an adapter's file otherwise than its content suggests."""

from collections.abc import Iterator

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.errors import first_names

SHOWN = 5


def file_warnings(adapter: Adapter) -> Iterator[str]:
    """A warning for factors and weights without effect, and for tensors under names that PEFT ignores."""
    if adapter.ignored:
        yield (
            f"{adapter.path}: its file has factors of modules that its config does not select; PEFT ignores "
            f"them, and so does the graft: {first_names(adapter.ignored, SHOWN)}"
        )
    if adapter.ignored_weights:
        yield (
            f"{adapter.path}: its file has weights that are no part of the modules that its config selects "
            f"or saves; PEFT does not load them, nor does the graft: "
            f"{first_names(adapter.ignored_weights, SHOWN)}"
        )
    if adapter.renamed:
        key, expected = next(iter(adapter.renamed.items()))
        yield (
            f"{adapter.path}: {len(adapter.renamed)} of its {len(adapter.files[0].tensors)} tensors have "
            f"names under which PEFT ignores them ({key!r} in place of {expected!r}); the graft has them all"
        )
