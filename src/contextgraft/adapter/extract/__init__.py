"""Adapters from base and donor."""
