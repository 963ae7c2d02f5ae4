"""A fine-tune's own skills: files of prompts and answers, and tasks of lm-evaluation-harness."""

from collections.abc import Sequence
from pathlib import Path

from contextgraft.config.evaluation import EvaluationConfig, SkillSection
from contextgraft.config.target_sheet import JSONL, SKILL_FILES, TASKS_RUN_CODE, is_task_file
from contextgraft.errors import InputError
from contextgraft.evaluation.suites.base import PlannedPrompts, SampleRow, Suite, SuiteContent
from contextgraft.evaluation.suites.skill_file import read_skill_file


def build_skills(config: EvaluationConfig) -> SuiteContent:
    """Files are question sets, tasks are measurements."""
    section = config.skill or SkillSection()
    if not section.skills:
        raise InputError("--suite skill needs a skill", remedy="pass --skill FILE.jsonl")
    for skill in section.skills:
        if Path(skill).exists() and not skill.endswith(SKILL_FILES):
            raise InputError(
                "is not a skill file",
                path=skill,
                expected=f"a file whose name ends in {', '.join(SKILL_FILES)}",
            )
        if is_task_file(skill) and not section.trust_tasks:
            raise InputError(
                TASKS_RUN_CODE, received=skill,
                remedy="read the file; if you trust it like a program, pass --trust-tasks, or set "
                "skill.trust_tasks: true in the configuration",
            )  # fmt: skip
    files = [skill for skill in section.skills if skill.endswith(JSONL)]
    tasks = [skill for skill in section.skills if not skill.endswith(JSONL)]
    question_sets = tuple(
        read_skill_file(Path(file), section.samples, config.chat or False) for file in files
    )
    if not tasks:
        return SuiteContent(question_sets)
    # Imported only here: lm-eval is optional, and slow to import.
    from contextgraft.evaluation.suites.lm_eval.skill import read_lm_eval_skill

    seed = config.common_seed
    return SuiteContent(
        question_sets,
        tuple(read_lm_eval_skill(task, section.samples, seed, config.chat or False) for task in tasks),
    )


def planned_prompts(config: EvaluationConfig) -> Sequence[PlannedPrompts]:  # noqa: ARG001 - one signature
    """Not planned: prompts of skills are short."""
    return ()


def narrow(config: EvaluationConfig, row: SampleRow) -> EvaluationConfig:
    """The same skills: a row does not name the file or task that it comes from."""
    if not (config.skill and config.skill.skills):
        raise InputError("the row is of a skill", received=row["task"], remedy="pass its --skill")
    return config


SUITE = Suite(build_skills, planned_prompts, narrow)
