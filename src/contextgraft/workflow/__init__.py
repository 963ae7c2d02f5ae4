"""What the Snakemake workflow needs of the package: one object for a study, its paths, titles of its charts."""

from contextgraft.workflow.charts import chart_labels, chart_subcategory
from contextgraft.workflow.paths import StudyPaths
from contextgraft.workflow.study import StudyWorkflow

__all__ = ["StudyPaths", "StudyWorkflow", "chart_labels", "chart_subcategory"]
