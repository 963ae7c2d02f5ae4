"""What a control is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.merge.plan import MergePlan, ScaledAdapter, plan_merge
from contextgraft.checkpoint.input_files import InputFiles, files_of
from contextgraft.checkpoint.model_folder import open_model
from contextgraft.errors import InputError
from contextgraft.formats.sidecar import identity
from contextgraft.rope.settings import RopeSettings
from contextgraft.rope.travelling import Setting


@dataclass
class FolderDigests:
    """The digests of models, each computed once for as long as no file of its folder changes."""

    known: dict[Path, tuple[InputFiles, str]] = field(default_factory=dict)

    def of(self, folder: Path) -> str:
        """The digest of a model's folder."""
        files, (before, digest) = files_of(folder), self.known.get(folder, (None, ""))
        if before != files:
            digest = str(identity(open_model(folder))["digest"])
            self.known[folder] = files, digest
        return digest


@dataclass(frozen=True)
class ControlInputs:
    """What a control is made of: a target's folder, and the adapters of one donor with which it is compared.

    The adapters share RoPE and attention settings; the first of them gives them, unless `arguments`, those of
    `plan_merge` for every graft of these adapters, have others. Controls of full rank need the folders of the
    base, of the donors, and of a donor trained on short texts only; `digests` are those of these folders,
    shared by the controls of one command.
    """

    target: Path
    adapters: tuple[Adapter, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    base: Path | None = None
    donors: tuple[Path, ...] = ()
    short_donor: Path | None = None
    digests: FolderDigests = field(default_factory=FolderDigests)

    @property
    def first(self) -> Adapter:
        """The first adapter."""
        return self.adapters[0]

    @property
    def largest(self) -> Adapter:
        """The adapter of the largest rank; of several the first."""
        return max(self.adapters, key=lambda adapter: adapter.rank)

    @property
    def donor_rope(self) -> RopeSettings:
        """The donor's RoPE settings; InputError for adapters without a record of them."""
        rope: RopeSettings | None = self.arguments.get("rope") or self.first.rope
        if rope is None:
            raise InputError(
                "has no record of the donor's length, which the control needs",
                path=self.first.path,
                expected="an adapter that `contextgraft extract` wrote",
            )
        return rope

    @property
    def attention(self) -> Mapping[str, Setting] | None:
        """The attention settings that the donor changed."""
        given: Mapping[str, Setting] | None = self.arguments.get("attention")
        return given if "rope" in self.arguments else self.first.attention

    def plan(self, adapter: Adapter, scale: float, **context: Any) -> MergePlan:
        """The merge of an adapter; `context` are other arguments of `plan_merge` than the grafts have."""
        return plan_merge([ScaledAdapter(adapter, scale)], self.target, **{**self.arguments, **context})


Control = Callable[[ControlInputs], MergePlan]  # raises what `plan_merge` raises
