"""How many tokens have logits at the same time; plans read this without importing torch."""

MIN_CHUNK_TOKENS = 1024  # enough work for a GPU
MIN_CHUNK_LOGITS = 2**22  # small vocabularies get longer chunks: 16 MiB of logits in float32


def logit_chunk_tokens(vocabulary: int) -> int:
    """Number of tokens whose logits exist at the same time."""
    return max(MIN_CHUNK_TOKENS, MIN_CHUNK_LOGITS // vocabulary)
