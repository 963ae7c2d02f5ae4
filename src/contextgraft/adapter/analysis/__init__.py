"""Adapters and models compared."""
