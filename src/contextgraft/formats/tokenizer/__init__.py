"""A model's tokenizer and its chat template, within limits of time and memory."""
