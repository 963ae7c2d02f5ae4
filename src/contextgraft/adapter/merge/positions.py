"""Longer tables of learned positions: a graft gains the donor's additional rows."""

from collections.abc import Mapping, Sequence

from contextgraft.adapter.lora.adapter import Adapter
from contextgraft.adapter.lora.entries import AdapterEntry, AdditiveEntry
from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.errors import MismatchError
from contextgraft.formats.sidecar import BASE_ROWS
from contextgraft.formats.tensor_names import holds_positions


def grows(name: str, entry: AdapterEntry, target: ModelFolder) -> bool:
    """Whether an entry has more positions than the target's table, in the same width."""
    return (
        holds_positions(name)
        and isinstance(entry, AdditiveEntry)
        and name in target.tensors
        and entry.shape[1:] == target[name].shape[1:]
        and entry.shape[0] > target[name].rows
    )


def check_positions(
    adapter: Adapter, scale: float, name: str, entry: AdapterEntry, target: ModelFolder
) -> None:
    """Raise MismatchError unless the rows that an entry adds follow those of the base's table."""
    if not holds_positions(name) or not isinstance(entry, AdditiveEntry) or name not in target.tensors:
        return
    record = ((adapter.sidecar or {}).get("dense") or {}).get(entry.key) or {}
    base_rows = record.get(BASE_ROWS, entry.shape[0])
    if target[name].rows != base_rows:
        raise MismatchError(
            f"has another number of learned positions, {name!r}, than the base of the adapter {adapter.path}",
            path=target.path, expected=f"{base_rows} rows", received=f"{target[name].rows}",
            remedy="use a target with the base's table",
        )  # fmt: skip
    if entry.shape[0] > base_rows and scale != 1:
        raise MismatchError(
            f"adds learned positions to {name!r}, which have no base to scale a difference to",
            path=adapter.path, expected="scale 1", received=f"{scale:g}",
            remedy="leave --scale out, or use the target itself as the row without the adapter",
        )  # fmt: skip


def check_length(target: ModelFolder, rows: Mapping[str, int], before: int, after: int) -> None:
    """Raise MismatchError where a config gains other positions than the table gains `rows`."""
    for name, info in target.tensors.items():
        if holds_positions(name):
            added = rows.get(name, info.rows) - info.rows
            if added != after - before:
                raise MismatchError(
                    f"has a table of {info.rows} learned positions, {name!r}, which a longer context "
                    "needs more rows of", path=target.path, expected=f"{after - before} more",
                    received=f"{added} from the adapters",
                    remedy="merge an adapter of a donor with a longer table, or use --keep-rope",
                )  # fmt: skip


def rows_of_positions(
    changes: Mapping[str, Sequence[tuple[Adapter, AdapterEntry]]], target: ModelFolder
) -> dict[str, int]:
    """Rows of the tables that become longer; one that another adapter changes, too, raises MismatchError."""
    rows = {}
    for name, items in changes.items():
        if not any(grows(name, entry, target) for _, entry in items):
            continue
        if len(items) > 1:
            raise MismatchError(
                f"makes the table of learned positions {name!r} longer, and another adapter changes it, too",
                path=items[0][0].path, received=", ".join(str(adapter.path) for adapter, _ in items),
                remedy="merge one of them alone",
            )  # fmt: skip
        rows[name] = items[0][1].shape[0]
    return rows
