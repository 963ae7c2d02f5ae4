"""Published adapters whose RoPE settings are known by name: known_adapters.yaml."""

from functools import cache
from pathlib import Path

from pydantic import Field, PositiveInt

from contextgraft.checkpoint.model_folder import read_json
from contextgraft.config.base import Frozen, read_yaml, validate
from contextgraft.config.study import ModelSource
from contextgraft.errors import InputError, did_you_mean
from contextgraft.formats.hub_source import HUB, RECORD, hub_repository
from contextgraft.rope.settings import RopeSettings

LIST = Path(__file__).with_name("known_adapters.yaml")


class KnownAdapter(Frozen):
    """One published adapter."""

    source: ModelSource
    theta: float = Field(gt=0)
    max_positions: PositiveInt


@cache
def known_adapters() -> dict[str, KnownAdapter]:
    """All known adapters by name."""
    return {name: validate(KnownAdapter, entry, LIST) for name, entry in read_yaml(LIST).items()}


def check_spelling(source: str) -> None:
    """Raise InputError for what is no known adapter but nearly the name of one."""
    remedy = did_you_mean(source, known_adapters())
    if remedy and source not in known_adapters():
        raise InputError(
            "no folder, no source and no known adapter", path=source,
            expected=f"a folder, hf:OWNER/NAME, or one of {', '.join(known_adapters())}",
            remedy=remedy,
        )  # fmt: skip


def known_rope(folder: Path) -> RopeSettings | None:
    """The RoPE settings of a known adapter that was fetched into `folder`; None for any other folder."""
    if not (folder / RECORD).exists():
        return None
    repository = hub_repository(read_json(folder / RECORD).get("source"))
    for known in known_adapters().values():
        if repository is not None and known.source == HUB + repository:
            return RopeSettings(known.theta, known.max_positions)
    return None
