"""Conversion of Llama models in GGUF files to Hugging Face folders."""
