"""Checks that samples which the report would pool are of the same model and of the same kind of prompt."""

from collections.abc import Iterable, Mapping
from typing import Any

from contextgraft.errors import InputError


def check_grafts(rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise InputError for the first row of sql/graft_settings.sql: two models that are one graft by name."""
    for row in rows:
        raise InputError(
            "two different grafts have the same fine-tune, donor, rank, scale and control",
            path=row["file"],
            expected="one model, made with the same settings of the merge and the same adapter",
            received=f"{row['model']!r}, and {row['other_model']!r} of {row['other_file']}",
            remedy="make a report of each, or leave one of them out",
        )


def check_prompts(rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise InputError for the first row of sql/prompt_sets.sql: two sets of prompts under one name."""
    for row in rows:
        what = "with other texts or wording"
        if row["setting_differs"]:
            what = f"with other settings, {row['setting']} and {row['other_setting']}"
        if row["chat_differs"]:
            what = "with and without the chat template"
        raise InputError(
            f"the samples of {row['suite']} {row['task']} are of two sets of prompts, {what}",
            path=row["file"],
            expected="the same prompts for a fine-tune and its grafts",
            received=f"those of {row['model']!r}, and of {row['other_model']!r} in {row['other_file']}",
            remedy="make a report of each, or evaluate again with the same version and settings",
        )
