"""What the Snakemake workflow needs of the package: a study, its paths and its lock, titles of its charts."""

from contextgraft.workflow.charts import chart_labels, chart_subcategory
from contextgraft.workflow.orphans import begin_study_run
from contextgraft.workflow.paths import StudyPaths
from contextgraft.workflow.study import StudyWorkflow
from contextgraft.workflow.study_lock import StudyLock

__all__ = ["StudyLock", "StudyPaths", "StudyWorkflow", "begin_study_run", "chart_labels", "chart_subcategory"]
