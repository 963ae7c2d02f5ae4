"""Weights that are pickles, converted to safetensors by a process of its own that runs none of their code."""
