"""The suites of an evaluation: a module and a line here, and a section in config/evaluation.py, for each."""

from contextgraft.evaluation.suites import (
    divergence,
    long_skill,
    needle,
    perplexity,
    repetition,
    ruler,
    skill,
)
from contextgraft.evaluation.suites.base import Suite
from contextgraft.evaluation.suites.long_perplexity import suite as long_perplexity

SUITES: dict[str, Suite] = {  # in the order of their rows, questions before measurements
    "needle": needle.SUITE,
    "ruler": ruler.SUITE,
    "skill": skill.SUITE,
    "long_skill": long_skill.SUITE,
    "repetition": repetition.SUITE,
    "perplexity": perplexity.SUITE,
    "long_perplexity": long_perplexity.SUITE,
    "divergence": divergence.SUITE,
}
