"""Whether a donor has a shorter context than its base, as it has if the two were exchanged."""

from contextgraft.checkpoint.model_folder import ModelFolder
from contextgraft.rope import settings


def shorter_context(base: ModelFolder, donor: ModelFolder) -> tuple[str, ...]:
    """One warning if the donor's context is the shorter one; none for models without a length."""
    before, after = (settings.read_any_length(side.config, side.path).context for side in (base, donor))
    if not 0 < after < before:
        return ()
    return (
        f"{donor.path}: its context has {after:,} tokens, the base's {before:,}: grafts get a shorter one; "
        "were --base and --donor exchanged?",
    )
