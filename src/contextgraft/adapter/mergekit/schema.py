"""The keys of a configuration for mergekit-yaml, those of mergekit 0.1.5; its code is not imported."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from contextgraft.config.base import File, Frozen
from contextgraft.config.text_file import path_exists
from contextgraft.formats.hub_source import HUB, REPOSITORY_NAME


class MergekitPath(Frozen):
    """A folder or a repository, as mergekit writes it: PATH or OWNER/NAME[@REVISION]."""

    path: File
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def from_text(cls, value: Any) -> Any:
        """PATH@REVISION, as one text."""
        if not isinstance(value, str):
            return value
        path, *revision = value.split("@")
        if len(revision) > 1:
            raise ValueError("more than one @ in the name of a model")
        return {"path": path, "revision": revision[0] if revision else None}

    @property
    def source(self) -> Path:
        """The source in the words of `contextgraft fetch`; mergekit, too, prefers a folder of that name."""
        if path_exists(self.path) or not REPOSITORY_NAME.fullmatch(self.path):
            return Path(self.path)
        return Path(f"{HUB}{self.path}{f'@{self.revision}' if self.revision else ''}")


class MergekitModel(Frozen):
    """A model, with a LoRA adapter or without: MODEL+ADAPTER."""

    model: MergekitPath
    lora: MergekitPath | None = None
    override_architecture: None = None

    @model_validator(mode="before")
    @classmethod
    def from_text(cls, value: Any) -> Any:
        """MODEL+ADAPTER, as one text."""
        if not isinstance(value, str):
            return value
        model, *lora = value.split("+")
        if len(lora) > 1:
            raise ValueError("more than one adapter on a model")
        return {"model": model, "lora": lora[0] if lora else None}


Parameters = Annotated[dict[str, Any], Field(default_factory=dict)]


class MergekitInput(Frozen):
    """A model of the list `models`, with its parameters."""

    model: MergekitModel
    parameters: Parameters


class MergekitConfig(Frozen):
    """The keys of a configuration that have a meaning here; others are refused by name."""

    merge_method: str
    models: Annotated[tuple[MergekitInput, ...], Field(min_length=1)]
    base_model: MergekitModel | None = None
    parameters: Parameters
    dtype: str | None = None
    out_dtype: str | None = None
