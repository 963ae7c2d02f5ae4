"""Asking models questions and writing the answers down."""
