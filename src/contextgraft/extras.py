"""Optional dependencies: which extras of the distribution install a package that is missing."""

import re
from importlib.util import find_spec

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
        return package if package in EXTRAS else None
    named = ADVICE.findall(str(error))  # also advice to install a newer version of what is installed
    return next((package for package in named if package in EXTRAS and find_spec(package) is None), None)
