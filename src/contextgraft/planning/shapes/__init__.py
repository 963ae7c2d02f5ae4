"""The sizes of a model: from its config.json by formula, or built by transformers on the meta device."""
