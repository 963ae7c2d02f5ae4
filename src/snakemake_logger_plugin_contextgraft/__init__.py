"""Snakemake's logger plugin `contextgraft` (`snakemake --logger contextgraft`): one line a finished job."""

import logging
import sys

from snakemake_interface_logger_plugins.base import LogHandlerBase
from typing_extensions import override

from contextgraft.workflow.job_lines import JobLines


class LogHandler(LogHandlerBase):  # type: ignore[misc]  # untyped
    """Prints the lines of JobLines on stderr, in place of Snakemake's own output."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    @override
    def __post_init__(self) -> None:
        self.lines = JobLines()

    @override
    def emit(self, record: logging.LogRecord) -> None:
        for line in self.lines.of_record(record):
            print(line, file=sys.stderr, flush=True)
