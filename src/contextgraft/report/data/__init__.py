"""What the report reads: samples, sidecars, records, labels."""
