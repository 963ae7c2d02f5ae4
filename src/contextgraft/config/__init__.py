"""Frozen pydantic models of everything a user configures."""
