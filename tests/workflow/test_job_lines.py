"""One line for each finished job of a study, and the end of a failed job's log."""

import logging
from pathlib import Path
from typing import Any

from contextgraft.workflow.job_lines import (
    ESTIMATED_AFTER,
    LAST_LINES,
    LONGEST_END,
    JobLines,
    duration,
    last_lines,
)


class Clock:
    """Seconds that pass only by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(job_lines: JobLines, event: str | None, *, level: int = logging.INFO, **values: Any) -> list[str]:
    record = logging.LogRecord("snakemake", level, "", 0, values.pop("msg", ""), None, None)
    vars(record).update(values, event=event)
    return list(job_lines.of_record(record))


def test_a_finished_job_is_one_line_with_the_time_that_is_left() -> None:
    clock = Clock()
    job_lines = JobLines(clock)
    assert lines(job_lines, None, msg="Building DAG of jobs...") == []
    job: dict[str, Any] = {
        "jobid": 3,
        "rule_name": "merge",
        "wildcards": {"seed": "1", "target": "style", "rank": "4"},
    }
    assert lines(job_lines, "job_info", **job, input=["a"] * 900) == []
    clock.now = 30
    assert lines(job_lines, "job_finished", job_id=3) == []
    finished = "[1 of 4] merge 1 style 4: 30 s; about 2 min left"
    assert lines(job_lines, "progress", done=1, total=4) == [finished]
    assert lines(job_lines, "progress", done=1, total=4) == []
    lines(job_lines, "job_info", jobid=4, rule_name="report", wildcards=None)
    lines(job_lines, "job_finished", job_id=4)
    assert lines(job_lines, "progress", done=4, total=4) == ["[4 of 4] report: 0 s"]


def test_the_first_short_jobs_promise_no_time() -> None:
    clock = Clock()
    job_lines = JobLines(clock)
    lines(job_lines, "job_info", jobid=1, rule_name="fetch", wildcards={"model": "base"})
    clock.now = ESTIMATED_AFTER - 1
    lines(job_lines, "job_finished", job_id=1)
    assert lines(job_lines, "progress", done=1, total=18) == ["[1 of 18] fetch base: 29 s"]


def test_a_failed_job_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text("".join(f"line {number}\n" for number in range(50)) + "\x1b[31mcontextgraft: error: why\n")
    job_lines = JobLines(Clock())
    lines(job_lines, "job_info", jobid=1, rule_name="fetch", wildcards={"model": "base"})
    shown = lines(job_lines, "job_error", jobid=1, rule_name="fetch", log=[str(log), str(tmp_path / "none")])
    assert shown[0] == "contextgraft: fetch base failed"
    assert shown[1] == f"  the last lines of {log}:"
    assert len(shown) == 1 + 1 + LAST_LINES + 2
    assert shown[1 + LAST_LINES] == r"    \x1b[31mcontextgraft: error: why"
    assert shown[-1] == "    cannot be read: No such file or directory"


def test_errors_and_the_end_are_shown() -> None:
    job_lines = JobLines(Clock())
    assert lines(job_lines, "error", level=logging.ERROR, msg="WorkflowError:\n  why") == [
        "WorkflowError:", "  why"
    ]  # fmt: skip
    assert lines(job_lines, None, msg="Nothing to be done (all requested files are present).") != []


def test_the_error_of_a_command_is_not_said_twice() -> None:
    failed = (
        "RuleException:\nCalledProcessError in file \"extract.smk\", line 27:\nCommand 'extract' returned 2"
    )
    for text in (failed, "WorkflowError:\nAt least one job did not complete successfully."):
        assert lines(JobLines(Clock()), "error", level=logging.ERROR, msg=text) == []


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 89, 90, 3600, 7200)] == [
        "0 s", "89 s", "2 min", "60 min", "2.0 h"
    ]  # fmt: skip


def test_a_log_that_is_one_endless_line_is_cut(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_bytes(b"x" * 10_000_000 + b"\xff\ncontextgraft: error: why\n")
    shown = last_lines(log)
    assert shown[-1] == "contextgraft: error: why"
    assert sum(map(len, shown)) <= LONGEST_END
