"""The records of `contextgraft evaluate --record`: collected during a run, written with its table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from contextgraft.checkpoint.atomic import write_json
from contextgraft.checkpoint.model_folder import SIDECAR
from contextgraft.errors import ContextgraftError, Refused
from contextgraft.formats.refusal import refusal
from contextgraft.formats.sidecar import check_record_output

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class GraftRecords:
    """The folder of each record by the label of its graft, and what has been collected for it."""

    folders: Mapping[str, Path]
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)

    def refuse(self, label: str, verb: str, error: ContextgraftError) -> None:
        """Collect the refusal of a graft."""
        if label in self.folders:
            self.contents[label] = refusal(self.folders[label].name, verb, error)

    def check(self) -> None:
        """Raise OutputError for a folder that cannot be written, or that holds anything but a record."""
        for folder in self.folders.values():
            check_record_output(folder, "--record")

    def remove(self) -> None:
        """Remove the records of an earlier run."""
        self.check()
        for folder in self.folders.values():
            (folder / SIDECAR).unlink(missing_ok=True)

    def write(self, table: "pa.Table") -> None:
        """Write what was collected; of a graft without it, the target was refused, as the table says."""
        from contextgraft.evaluation.sample_rows import refused_rows

        for label, verb, reason in refused_rows(table):
            if label in self.folders and label not in self.contents:
                self.refuse(label, verb, Refused(self.folders[label], verb, reason))
        for label, content in self.contents.items():
            write_json(self.folders[label] / SIDECAR, content)


NO_RECORDS = GraftRecords(MappingProxyType({}))
