"""The score of IFEval, by the checks of lm-evaluation-harness."""

from typing import Any

from lm_eval.tasks.ifeval.utils import process_results

SCORE = "prompt_level_strict_acc"


def all_obeyed(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """1 if the output obeys every instruction of the prompt, as it is written."""
    return {SCORE: float(process_results(doc, results)[SCORE])}
