"""Experts of an adapter for models that store them otherwise than it does."""
