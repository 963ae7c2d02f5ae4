"""Asking models for needles and skills, through lm-evaluation-harness, and writing every answer down."""
