"""Attention of a block of queries on a block of keys, and the merge of several blocks."""
