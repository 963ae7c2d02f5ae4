"""Where models come from: folders, GGUF files, the demo world."""
