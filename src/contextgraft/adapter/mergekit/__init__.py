"""Configurations of mergekit that mean a merge of adapters."""
