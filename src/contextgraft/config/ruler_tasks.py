"""The names of RULER's tasks (Hsieh et al. 2024, arXiv 2404.06654), in its order."""

from typing import Literal, get_args

Task = Literal[
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "vt",
    "cwe",
    "fwe",
    "qa_1",
    "qa_2",
]
RULER_TASKS: tuple[str, ...] = get_args(Task)
