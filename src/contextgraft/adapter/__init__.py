"""Low-rank deltas: extraction, merging, verification."""
