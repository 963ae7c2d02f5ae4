"""Synthetic long prompts for training and evaluation, as pure functions of text, tokens and generators."""
