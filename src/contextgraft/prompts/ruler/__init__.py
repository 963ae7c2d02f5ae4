"""RULER's tasks."""
