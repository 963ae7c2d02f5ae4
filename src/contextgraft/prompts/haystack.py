"""The text needles are hidden in: shipped by name, or a file of the user's."""

from importlib.resources import files
from pathlib import Path

from contextgraft.errors import InputError

SHIPPED = ("moby_dick_eval", "moby_dick_train")


def read(name: str, base_dir: Path) -> str:
    """Text of a shipped haystack, or of a file relative to `base_dir`; InputError if there is neither."""
    if name in SHIPPED:
        return files("contextgraft.prompts").joinpath("texts", f"{name}.txt").read_text(encoding="utf-8")
    path = base_dir / name
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "cannot read the haystack",
            path=path,
            expected=f"a UTF-8 text file, or one of {', '.join(SHIPPED)}",
            received=str(error),
        ) from None
    if not text.strip():
        raise InputError("the haystack is empty", path=path)
    return text
