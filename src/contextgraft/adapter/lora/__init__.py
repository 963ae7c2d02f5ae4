"""Adapters in PEFT's format, and their deltas."""
