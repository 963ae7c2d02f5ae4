"""Optional dependencies: which extras of the distribution install a package that is missing."""

import re

WITH_TRANSFORMERS = ("evaluate", "train", "gguf")
EXTRAS: dict[str, tuple[str, ...]] = {
    "accelerate": ("evaluate",),
    "datasets": ("lm-eval",),
    "duckdb": ("report",),
    "dvc": ("workflow",),
    "gguf": ("gguf",),
    "jinja2": ("report",),
    "lm_eval": ("lm-eval",),
    "peft": ("train",),
    "snakemake": ("workflow",),
    "tensorboard": ("tensorboard",),
    "tokenizers": WITH_TRANSFORMERS,
    "transformers": WITH_TRANSFORMERS,
    "vl_convert": ("report",),
}
ADVICE = re.compile(r"pip install ['\"]?(\w+)")  # transformers' own text, for a package that it misses


def missing_package(error: BaseException) -> str | None:
    """The optional package without which an import failed, or a library could not go on; None if another."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
    else:
        advice = ADVICE.search(str(error))
        package = advice[1] if advice else ""
    return package if package in EXTRAS else None
