"""Optional dependencies: which extra of the distribution installs the package that an import did not find."""

from collections.abc import Iterator
from contextlib import contextmanager

from contextgraft.errors import InputError

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


def missing_extra(error: ModuleNotFoundError, verb: str | None = None) -> InputError | None:
    """The error to show for a failed import of an optional package; None if the package is not optional.

    Where several extras install the package, the one with the name of the verb is recommended.
    """
    package = (error.name or "").partition(".")[0]
    extras = EXTRAS.get(package)
    if extras is None:
        return None
    extra = verb if verb in extras else extras[0]
    return InputError(
        f"{verb or 'this function'} needs the package {package}, which is not installed",
        remedy=f"install it with: pip install 'contextgraft[{extra}]'",
    )


@contextmanager
def required_extra(verb: str | None) -> Iterator[None]:
    """Turn the failed import of an optional package inside into the InputError of `missing_extra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = missing_extra(error, verb)
        if missing is None:
            raise
        raise missing from None
