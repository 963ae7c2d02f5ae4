"""Grafts: adapters merged into fine-tunes."""
