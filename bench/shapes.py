"""The shapes of the generated models, and the ranks that are extracted."""

from goals import ONE, STUDIES, TEN, TINY

RANKS = (16, 32, 64, 128)
# layers, hidden, intermediate, vocabulary: true sizes, of the larger models a few layers
SHAPES = {
    TINY: (2, 64, 128, 256),
    STUDIES: (2, 64, 128, 256),
    TEN: (2, 2048, 8192, 4096),
    ONE: (4, 1024, 4096, 4096),
    "1B": (16, 2048, 8192, 4096),
    "8B": (4, 4096, 14336, 128256),
    "70B": (1, 8192, 28672, 4096),
}
