"""From the options of `contextgraft evaluate` to what is asked and measured."""

from pathlib import Path
from typing import TYPE_CHECKING

from contextgraft.cli.evaluate_options import Options
from contextgraft.errors import InputError

if TYPE_CHECKING:
    from contextgraft.evaluation.measures import Measure
    from contextgraft.evaluation.suites import Exam

JSONL = ".jsonl"


def check_suites(chosen: Options) -> None:
    """Refuse suites that lack what they need, before anything slow is imported."""
    lengths = chosen.perplexity_lengths or chosen.lengths
    needed = {
        "needle": (chosen.lengths, "lengths", "--lengths, for example 128,1024"),
        "skill": (chosen.skills, "a skill", "--skill FILE.jsonl"),
        "perplexity": (lengths, "lengths", "--perplexity-lengths, for example 128,1024"),
    }
    if not chosen.suites:
        raise InputError("nothing is to be asked", remedy="pass --suite needle, for example")
    for suite, (given, what, remedy) in needed.items():
        if suite in chosen.suites and not given:
            raise InputError(f"--suite {suite} needs {what}", remedy=f"pass {remedy}")


def make_exam(chosen: Options) -> "Exam":
    """The questions of all suites that ask; InputError or ConfigError names what cannot be read."""
    from contextgraft.evaluation import suites

    grid = None
    if "needle" in chosen.suites and chosen.lengths is not None:
        grid = suites.read_grid(
            chosen.format_path,
            lengths=chosen.lengths,
            depths=chosen.depths,
            samples=chosen.samples,
            distractors=chosen.distractors,
        )
    files = [skill for skill in chosen.skills if skill.endswith(JSONL)]
    skills = [suites.read_skill(Path(file), chosen.skill_samples) for file in files]
    return suites.Exam(grid, tuple(skills) if "skill" in chosen.suites else (), chosen.seed)


def make_measures(chosen: Options) -> "list[Measure]":
    """The measures of all suites that measure, tasks of lm-eval first."""
    return [*harness_skills(chosen), *perplexities(chosen), *divergences(chosen)]


def harness_skills(chosen: Options) -> "list[Measure]":
    """Skills that are tasks of lm-eval."""
    names = [skill for skill in chosen.skills if not skill.endswith(JSONL)]
    if "skill" not in chosen.suites or not names:
        return []
    from contextgraft.evaluation.harness_skill import read_harness_skill

    return [read_harness_skill(name, chosen.skill_samples, chosen.seed) for name in names]


def perplexities(chosen: Options) -> "list[Measure]":
    """Perplexity, one measure a length."""
    if "perplexity" not in chosen.suites:
        return []
    from contextgraft.evaluation.perplexity import PerplexityMeasure
    from contextgraft.evaluation.windows import read_text

    text = read_text(text_name(chosen))
    lengths = chosen.perplexity_lengths or chosen.lengths or ()
    return [PerplexityMeasure(text, length, chosen.documents, chosen.seed) for length in lengths]


def divergences(chosen: Options) -> "list[Measure]":
    """Divergence from the reference."""
    if "divergence" not in chosen.suites:
        return []
    from contextgraft.evaluation.divergence import DivergenceMeasure
    from contextgraft.evaluation.windows import Windows, read_text

    text = read_text(text_name(chosen))
    windows = Windows(text, chosen.divergence_length, chosen.divergence_prompts, chosen.seed)
    return [DivergenceMeasure(windows)]


def text_name(chosen: Options) -> str:
    """The text that is given, else the one the needle format hides its needles in, else the shipped one."""
    from contextgraft.evaluation.windows import DEFAULT_TEXT
    from contextgraft.prompts.haystack import SHIPPED
    from contextgraft.prompts.needle import load_format

    if chosen.text is not None or chosen.format_path is None:
        return chosen.text or DEFAULT_TEXT
    name = load_format(chosen.format_path).haystack
    return name if name in SHIPPED else str(chosen.format_path.parent / name)
