"""What a study with a server backend cannot evaluate: found before its first job."""

from collections.abc import Collection, Iterator
from pathlib import Path

from contextgraft.config.server.backend import UNSERVED
from contextgraft.config.study import StudyConfig
from contextgraft.config.target_sheet import JSONL, TargetRow
from contextgraft.errors import ConfigError

IN_PROCESS = "needs the weights in the process of the evaluation, which a server does not give"


def check_served(
    settings: StudyConfig, targets: Collection[TargetRow], source: Path | str
) -> Iterator[ConfigError]:
    """A mistake for each suite and skill that no server measures, and for a server that holds one model."""
    evaluation = settings.evaluation
    if evaluation.backend is None:
        return
    if evaluation.backend.url is not None:
        yield ConfigError(
            "evaluation.backend.url: a server that runs holds one model, and a study evaluates several",
            path=source, expected="serve: a server that is started for each model",
            received=evaluation.backend.url,
        )  # fmt: skip
    for name in UNSERVED:
        if getattr(evaluation, name) is not None and name in (evaluation.suites or UNSERVED):
            yield ConfigError(
                f"evaluation.{name}: {IN_PROCESS}", path=source,
                remedy=f"name evaluation.suites without {name}, or remove evaluation.backend",
            )  # fmt: skip
    if evaluation.suites is not None and "skill" not in evaluation.suites:
        return
    named = {source: evaluation.skill.skills}
    named |= {f"{settings.fine_tunes}: {row.name}": list(row.skills) for row in targets}
    for where, skills in named.items():
        for skill in skills:
            if not skill.endswith(JSONL):
                yield ConfigError(
                    f"skill: a task of lm-evaluation-harness {IN_PROCESS}", path=where, received=skill,
                    remedy="give a skill file (.jsonl), or name evaluation.suites without skill",
                )  # fmt: skip
