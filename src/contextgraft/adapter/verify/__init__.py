"""Grafts and adapters recomputed from their inputs."""
