"""Sources of models and data: folders, GGUF files, the demo models, the Hugging Face hub."""
