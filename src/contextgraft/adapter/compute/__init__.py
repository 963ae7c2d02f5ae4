"""Numerics and threads that extraction, merge and verification share."""
