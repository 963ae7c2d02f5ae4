"""Charts with one line for each model: perplexity by position, needles by depth."""
