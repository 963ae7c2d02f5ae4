"""Sizes of the tiles in which tensors are computed."""

DELTA_TILE = 1 << 21  # elements; fixed, because the order of summation determines the last bits
MERGE_TILE = 1 << 18  # elements: the few buffers of a tile fit into a core's cache
PRODUCT_ROWS = 64  # at least, of one product of factors: fewer do not make up for packing the factors


def tile_rows(columns: int, elements: int) -> int:
    """Rows of a tile of at most `elements` elements; at least one."""
    return max(1, elements // max(columns, 1))
