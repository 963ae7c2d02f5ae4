"""The base that an adapter names, as servers and model files name it."""

import re
from typing import NamedTuple

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.checkpoint.model_folder import read_json
from contextgraft.formats.peft import ADAPTER_CONFIG

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class BaseModel(NamedTuple):
    """A repository or folder, and the revision of a repository if it is known."""

    name: str
    revision: str | None

    @property
    def on_hub(self) -> bool:
        """Whether the name has the form OWNER/NAME."""
        return HUB_NAME.fullmatch(self.name) is not None


def base_model(adapter: Adapter) -> BaseModel:
    """The base by `base_model_name_or_path` and `revision`; older files have `hf:OWNER/NAME@REVISION`."""
    written = read_json(adapter.path / ADAPTER_CONFIG)
    name = adapter.config.base_model_name_or_path or str(adapter.origin["base"]["name"] or "BASE")
    revision = written.get("revision")
    if name.startswith("hf:"):
        name, _, given = name.removeprefix("hf:").partition("@")
        revision = revision or given
    return BaseModel(name, str(revision) if revision else None)
