"""What `contextgraft merge` reads and writes in addition to adapters and models."""
