"""How models are run: transformers, servers, vLLM."""
