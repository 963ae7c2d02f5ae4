"""Scores with intervals, paired differences, verdicts."""
