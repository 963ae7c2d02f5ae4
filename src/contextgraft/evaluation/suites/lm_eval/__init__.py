"""Tasks of lm-evaluation-harness, as skills of a fine-tune."""
