"""Model cards for the Hugging Face hub, of adapters, grafts and trained models: one generator for all."""
