"""What `plan` says of the shipped studies and recipes."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from contextgraft.cli.main import cli

from .tables import ROOT

STUDIES = ROOT / "config/studies"


def plan(*words: str) -> str:
    """The output of `plan`."""
    done = CliRunner().invoke(cli, ["plan", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@cache
def study_plan(name: str, path: Path | None = None) -> dict[str, Any]:
    """The figures of a study's plan, its steps by name."""
    read: dict[str, Any] = json.loads(plan("study", str(path or STUDIES / f"{name}.yaml"), "--json"))
    return {**read, "steps": {step["name"]: step for step in read["steps"]}}
