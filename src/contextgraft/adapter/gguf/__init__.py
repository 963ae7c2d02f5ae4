"""Adapters for llama.cpp: its names, and the file that its `--lora` reads."""
