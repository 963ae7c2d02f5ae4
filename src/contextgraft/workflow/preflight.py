"""The check before the first job. Only the head process imports it: what it imports takes seconds."""

import sys
from pathlib import Path

from contextgraft.planning.preflight import check_study
from contextgraft.sources.hub.client import DownloadProgress, Hub
from contextgraft.workflow.study import StudyWorkflow


def check_before_first_job(workflow: StudyWorkflow) -> None:
    """Raise ConfigError, or SeveralMistakes, for what a later job would fail with."""

    def log(line: str) -> None:
        print(f"contextgraft: {line}", file=sys.stderr)

    paths, hub = workflow.paths, Hub(progress=DownloadProgress(log=log))
    evaluated = Path(paths.base_samples).exists()
    check_study(workflow.study, Path(paths.data) / "models", hub, base_evaluated=evaluated)
