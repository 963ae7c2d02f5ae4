"""From the options of `contextgraft evaluate` to what is asked and measured."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contextgraft.cli.evaluate_options import Options
from contextgraft.config.target_sheet import SKILL_FILES
from contextgraft.errors import InputError
from contextgraft.prompts.needle_kinds import SINGLE

if TYPE_CHECKING:
    from contextgraft.evaluation.spec import EvalSpec
    from contextgraft.evaluation.suites.base import Measurement
    from contextgraft.evaluation.suites.needle import NeedleGrid
    from contextgraft.evaluation.suites.ruler import RulerGrid
    from contextgraft.evaluation.suites.skill_file import SkillFile

JSONL = ".jsonl"


def check_suites(chosen: Options) -> None:
    """Refuse suites that lack what they need, before anything slow is imported."""
    perplexity, ruler = (
        chosen.perplexity_lengths or chosen.lengths,
        chosen.ruler_lengths or chosen.lengths,
    )
    needed = {
        "needle": (chosen.lengths, "lengths", "--lengths, for example 128,1024"),
        "ruler": (ruler, "lengths", "--ruler-lengths, for example 4096,8192"),
        "skill": (chosen.skills, "a skill", "--skill FILE.jsonl"),
        "perplexity": (perplexity, "lengths", "--perplexity-lengths, for example 128,1024"),
    }
    if not chosen.suites:
        raise InputError("nothing is to be asked", remedy="pass --suite needle, for example")
    for skill in chosen.skills:
        if Path(skill).exists() and not skill.endswith(SKILL_FILES):
            raise InputError(
                "is no file of a skill", path=skill, expected=f"one that ends in {', '.join(SKILL_FILES)}"
            )
    for suite, (given, what, remedy) in needed.items():
        if suite in chosen.suites and not given:
            raise InputError(f"--suite {suite} needs {what}", remedy=f"pass {remedy}")


def make_spec(chosen: Options) -> "EvalSpec":
    """Everything that is evaluated; InputError or ConfigError names what cannot be read."""
    from contextgraft.evaluation.spec import EvalSpec

    sets = (*grids(chosen), *ruler(chosen), *skills(chosen))
    measurements = (*lm_eval_skills(chosen), *perplexities(chosen), *divergences(chosen))
    return EvalSpec(sets, measurements, chosen.seed)


def grids(chosen: Options) -> "tuple[NeedleGrid, ...]":
    """A needle grid for each kind and haystack."""
    if "needle" not in chosen.suites or chosen.lengths is None:
        return ()
    from contextgraft.evaluation.suites.needle import read_grid

    return tuple(
        read_grid(
            chosen.format_path,
            lengths=chosen.lengths,
            depths=chosen.depths,
            samples=chosen.samples,
            distractors=chosen.distractors,
            kind=kind,
            count=chosen.count,
            haystack=haystack,
            values=chosen.values,
        )
        for kind in chosen.kinds
        for haystack in chosen.haystacks or (None,)
    )


def ruler(chosen: Options) -> "tuple[RulerGrid, ...]":
    """RULER's tasks."""
    lengths = chosen.ruler_lengths or chosen.lengths
    if "ruler" not in chosen.suites or lengths is None:
        return ()
    from contextgraft.evaluation.suites.ruler import read_ruler

    data = {"qa_1": chosen.qa_1, "qa_2": chosen.qa_2}
    grid = read_ruler(
        lengths=lengths,
        samples=chosen.ruler_samples or chosen.samples,
        tasks=chosen.ruler_tasks or None,
        qa={task: path for task, path in data.items() if path is not None},
    )
    return (grid,)


def skills(chosen: Options) -> "tuple[SkillFile, ...]":
    """Skills that are files of questions."""
    if "skill" not in chosen.suites:
        return ()
    from contextgraft.evaluation.suites.skill_file import read_skill_file

    files = [skill for skill in chosen.skills if skill.endswith(JSONL)]
    return tuple(read_skill_file(Path(file), chosen.skill_samples) for file in files)


def lm_eval_skills(chosen: Options) -> "list[Measurement]":
    """Skills that are tasks of lm-eval."""
    names = [skill for skill in chosen.skills if not skill.endswith(JSONL)]
    if "skill" not in chosen.suites or not names:
        return []
    from contextgraft.evaluation.suites.lm_eval_skill import read_lm_eval_skill

    return [read_lm_eval_skill(name, chosen.skill_samples, chosen.seed) for name in names]


def perplexities(chosen: Options) -> "list[Measurement]":
    """Perplexity, one measure a length."""
    if "perplexity" not in chosen.suites:
        return []
    from contextgraft.evaluation.suites.perplexity import PerplexityMeasurement
    from contextgraft.evaluation.suites.text_prompts import TextWindows, read_text

    text = read_text(text_name(chosen))
    lengths = chosen.perplexity_lengths or chosen.lengths or ()
    return [
        PerplexityMeasurement(TextWindows(text, length, chosen.documents, chosen.seed), length)
        for length in lengths
    ]


def divergences(chosen: Options) -> "list[Measurement]":
    """Divergence from the reference."""
    if "divergence" not in chosen.suites:
        return []
    from contextgraft.evaluation.suites.divergence import DivergenceMeasurement
    from contextgraft.evaluation.suites.skill_file import read_skill_file
    from contextgraft.evaluation.suites.text_prompts import SkillLines, TextWindows, read_text

    name = text_name(chosen)
    if name.endswith(JSONL):
        return [
            DivergenceMeasurement(
                SkillLines(read_skill_file(Path(name)), chosen.divergence_prompts, chosen.seed)
            )
        ]
    text = read_text(name)
    windows = TextWindows(text, chosen.divergence_length, chosen.divergence_prompts, chosen.seed)
    return [DivergenceMeasurement(windows)]


def text_name(chosen: Options) -> str:
    """The text that is given, else the one the needle format hides its needles in, else the shipped one."""
    from contextgraft.evaluation.suites.text_prompts import DEFAULT_TEXT
    from contextgraft.prompts.haystack import SHIPPED_TEXTS
    from contextgraft.prompts.needle_format import load_format

    if chosen.text is not None or chosen.format_path is None:
        return chosen.text or DEFAULT_TEXT
    name = load_format(chosen.format_path).haystack
    return name if name in SHIPPED_TEXTS else str(chosen.format_path.parent / name)


def suited_to(chosen: Options, row: Mapping[str, Any]) -> Options:
    """Options that ask a row's suite, so that its recipe finds the format, haystack or file it names."""
    if row["suite"] == "skill" and not chosen.skills:
        raise InputError("the row is of a skill", received=row["task"], remedy="pass its --skill")
    return replace(
        chosen,
        suites=(row["suite"],),
        seed=row["seed"],
        lengths=(row["length"],) if row["length"] else None,
        ruler_lengths=None,
        depths=(row["depth"] or 0.0,),
        samples=1,
        perplexity_lengths=None,
        documents=1,
        distractors=row["distractors"] or 0,
        kinds=(row["kind"] or SINGLE,),
        ruler_tasks=(row["task"],),
        haystacks=chosen.haystacks or shipped(row["haystack"]),
    )


def shipped(haystack: str | None) -> tuple[str, ...]:
    """A haystack that is found by its name alone; any other is the format's or given by its path."""
    from contextgraft.prompts.haystack import NEEDLES, SHIPPED_TEXTS

    return (haystack,) if haystack is not None and haystack in {NEEDLES, *SHIPPED_TEXTS} else ()
