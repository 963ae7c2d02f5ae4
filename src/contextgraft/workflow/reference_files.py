"""Files of the reference of long_perplexity, which evaluations of a study depend on."""

from collections.abc import Sequence
from pathlib import Path

from contextgraft.config.evaluation import EvaluationConfig
from contextgraft.config.text_file import is_file
from contextgraft.errors import ConfigError
from contextgraft.workflow.paths import MANIFEST, folder_of


def reference_files(evaluation: EvaluationConfig, models: Sequence[str], source: str) -> list[str]:
    """Files of the reference of long_perplexity: the manifest of a model of the study, or all of a folder.

    ConfigError naming `source`, the study, for a folder without a model.
    """
    section = evaluation.long_perplexity
    if section is None or section.reference is None or "long_perplexity" not in evaluation.selected_suites:
        return []
    folder = Path(section.reference)
    if (own := str(folder / MANIFEST)) in models:
        return [own]
    if not is_file(folder / "config.json"):
        raise ConfigError(
            "evaluation.long_perplexity.reference names a folder without a model", path=source,
            expected=f"a folder with config.json, or of a model of the study, such as {folder_of(models[1])}",
            received=section.reference,
        )  # fmt: skip
    return sorted(str(file) for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
