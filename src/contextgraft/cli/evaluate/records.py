"""The records of `contextgraft evaluate --record`: collected during a run, written with its table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from contextgraft.checkpoint.atomic import check_folder_output, write_json
from contextgraft.checkpoint.model_folder import SIDECAR
from contextgraft.errors import ContextgraftError, OutputError, Refused
from contextgraft.formats.refusal import refusal
from contextgraft.formats.sidecar import TEMPORARY, is_record

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
            check_folder_output(folder)
            names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
            if names - {TEMPORARY} and not is_record(folder):
                raise OutputError(
                    "holds other files than the record of a graft, which --record does not replace",
                    path=folder,
                    expected=f"a folder that is empty, or holds only {SIDECAR} of a graft or a refusal",
                    remedy="name another folder",
                )

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
