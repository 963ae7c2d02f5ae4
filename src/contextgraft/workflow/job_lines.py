"""What a person reads while a study runs: a line for each finished job, and why a job failed."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from contextgraft.errors import printable

ESTIMATED_AFTER = 30  # seconds: the first jobs copy models, and say nothing of those that compute
LAST_LINES = 15  # of the log of a failed job
LONGEST_END = 1 << 15  # bytes of these lines
NO_NEWS = "Nothing to be done"
# errors that repeat what the lines of the failed job say
SAID = ("CalledProcessError in file", "At least one job did not complete successfully")


class JobLines:
    """Turns Snakemake's log records into lines; `clock` gives seconds.

    Records of other events than those of jobs are shown if they are warnings or errors.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: float | None = None
        self._started: dict[int, tuple[str, float]] = {}
        self._finished: list[str] = []
        self._on_event: Mapping[str | None, Callable[[logging.LogRecord], Iterator[str]]] = {
            "workflow_started": lambda _: iter(["contextgraft: reading the study"]),
            "run_info": self._run_info,
            "job_info": self._job_info,
            "job_finished": self._job_finished,
            "progress": self._progress,
            "job_error": self._job_error,
            "error": self._error,
        }

    def of_record(self, record: logging.LogRecord) -> Iterator[str]:
        """The lines of one record."""
        event = getattr(record, "event", None)
        lines = self._on_event.get(None if event is None else str(event), self._other)
        return (printable(line) for line in lines(record))

    def _run_info(self, record: logging.LogRecord) -> Iterator[str]:
        rows = [line.split() for line in record.getMessage().splitlines()]
        yield from (f"contextgraft: {row[1]} jobs to do" for row in rows if row[:1] == ["total"])

    def _job_info(self, record: Any) -> Iterator[str]:
        wildcards = " ".join(map(str, dict(record.wildcards or {}).values()))
        self._begun = self._clock() if self._begun is None else self._begun
        self._started[record.jobid] = f"{record.rule_name} {wildcards}".strip(), self._clock()
        yield from ()

    def _job_finished(self, record: Any) -> Iterator[str]:
        label, started = self._started.pop(record.job_id, (f"job {record.job_id}", self._clock()))
        self._finished.append(f"{label}: {duration(self._clock() - started)}")
        yield from ()

    def _progress(self, record: Any) -> Iterator[str]:
        done, total = record.done, record.total
        begun = self._clock() if self._begun is None else self._begun
        passed = self._clock() - begun
        seconds = passed / max(done, 1) * (total - done)
        left = f"; about {duration(seconds)} left" if done < total and passed >= ESTIMATED_AFTER else ""
        for job in self._finished:
            yield f"[{done} of {total}] {job}{left}"
        self._finished.clear()

    def _job_error(self, record: Any) -> Iterator[str]:
        label, _ = self._started.get(record.jobid, (record.rule_name, 0.0))
        yield f"contextgraft: {label} failed"
        for log in record.log:
            yield f"  the last lines of {log}:"
            yield from (f"    {line}" for line in last_lines(Path(log)))

    def _error(self, record: logging.LogRecord) -> Iterator[str]:
        if not any(words in record.getMessage() for words in SAID):
            yield from self._other(record)

    def _other(self, record: logging.LogRecord) -> Iterator[str]:
        text = str(record.getMessage())
        if record.levelno >= logging.WARNING or text.startswith(NO_NEWS):
            yield from text.splitlines()


def last_lines(path: Path) -> list[str]:
    """The end of a log, at most LONGEST_END bytes; of one that cannot be read, why."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LONGEST_END))
            text = file.read(LONGEST_END).decode(errors="replace")
            return [line.rstrip() for line in text.splitlines()[-LAST_LINES:]]
    except OSError as error:
        return [f"cannot be read: {error.strerror}"]


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in whole numbers."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
