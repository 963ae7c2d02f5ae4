"""Grafts that are not written: the small files in a folder, the tensors computed when they are loaded."""
