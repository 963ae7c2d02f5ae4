"""Titles of the report's charts in Snakemake's report, from the names of their files."""

TITLES = {
    "matrix": "Fine-tunes by rank",
    "effect_of_rank": "Needles and skill by rank",
    "heatmap": "Needles by length and depth",
    "depth": "Needles by depth",
    "perplexity": "Perplexity by position",
    "energy_by": "Energy of the delta",
    "alignment": "Alignment of fine-tune and donor",
}


def chart_subcategory(chart: str) -> str:
    """The title of a chart's kind, for the stem of its file name."""
    return TITLES.get(_kind(chart), "Other charts")


def chart_labels(chart: str) -> dict[str, str]:
    """The columns under which Snakemake's report lists a chart."""
    subject = chart.removeprefix(_kind(chart)).strip("_").replace("_", " ")
    return {"chart": chart_subcategory(chart), "subject": subject or "all fine-tunes"}


def _kind(chart: str) -> str:
    return next((kind for kind in TITLES if chart.startswith(kind)), "")
