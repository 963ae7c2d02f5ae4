"""What the model card of an adapter or a graft says of its use, and the card in its folder."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from contextgraft.adapter.analysis.server_commands import adapter_commands, config_override, graft_commands
from contextgraft.adapter.lora.adapter import Adapter, open_adapter
from contextgraft.adapter.lora.base_model import base_model
from contextgraft.errors import ContextgraftError, raise_read_error
from contextgraft.formats.adapter_record import AdapterRecord, parse_adapter_record
from contextgraft.formats.graft_record import parse_graft_record
from contextgraft.formats.model_card.cards import adapter_card, graft_card
from contextgraft.formats.model_card.licence import CARD
from contextgraft.formats.model_card.usage import FOLDER, AdapterUsage
from contextgraft.rope import settings


def usage_of(adapter: Adapter) -> AdapterUsage:
    """What the snippets of an adapter's card contain."""
    base = base_model(adapter)
    return AdapterUsage(
        base=base.name,
        revision=base.revision,
        config=config_override(adapter, adapter.rope) if adapter.rope else {},
        servers=adapter_commands(adapter, Path(FOLDER)),
        dense=len((adapter.sidecar or {}).get("dense", {})),
        mergekit=all(len(entry.shape) == 2 for entry in adapter.factors.values()),
    )


def usages_of(records: Iterable[AdapterRecord]) -> dict[Path, AdapterUsage]:
    """The same for adapters that were found in folders; those whose weights cannot be opened are left out."""
    usages: dict[Path, AdapterUsage] = {}
    for record in records:
        try:
            usages |= {record.folder: usage_of(open_adapter(record.folder))} if record.folder else {}
        except ContextgraftError as error:
            raise_read_error(error, record.folder or "")
    return usages


def write_adapter_card(adapter: Adapter) -> None:
    """Write README.md into the folder of an adapter that `extract` made."""
    text = adapter_card(parse_adapter_record(adapter.sidecar or {}), usage_of(adapter))
    (adapter.path / CARD).write_text(text, encoding="utf-8")


def write_graft_card(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write README.md into the folder of a graft, which has its manifest."""
    context = settings.from_json(manifest["rope"]["after"]).context
    servers = graft_commands(Path("graft"), context)
    (folder / CARD).write_text(graft_card(parse_graft_record(manifest), servers), encoding="utf-8")
