"""Model folders: layout, streaming reads, atomic writes, digests."""
