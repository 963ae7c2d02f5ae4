"""Progressive long-context training."""
