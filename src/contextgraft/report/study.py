"""The table of a study from its samples; without charts and pages, which take longer to import."""

from collections.abc import Mapping
from dataclasses import replace

from contextgraft.report.data.labels import model_names
from contextgraft.report.data.samples import SampleDatabase
from contextgraft.report.statistics.advice import with_advice
from contextgraft.report.statistics.cells import ModelKey, score_group
from contextgraft.report.statistics.clusters import text_key, texts_by_cell
from contextgraft.report.statistics.paired import control_pairs, pair_counts, pairs_by_model, skill_pairs
from contextgraft.report.statistics.splits import PromptPairs
from contextgraft.report.statistics.study_table import StudyTable, build_study_table


def build_study(
    database: SampleDatabase, names: Mapping[ModelKey, str] | None = None, context: int | None = None
) -> StudyTable:
    """The rows and verdicts of the samples; `names` has the name of each model, `context` is the base's."""
    groups = list(map(score_group, database.rows("score_groups")))
    skills = list(map(skill_pairs, database.rows("pairs")))
    prompts = PromptPairs(skills, list(map(control_pairs, database.rows("control_pairs"))))
    names = model_names(database.rows("labels")) if names is None else names
    study = build_study_table(groups, names, context, pairs_by_model(skills), prompts)
    pairs = {text_key(row): pair_counts(row) for row in database.rows("needle_pairs")}
    texts = texts_by_cell(database.rows("texts"))
    return replace(with_advice(study), texts=texts, needle_pairs=pairs)
