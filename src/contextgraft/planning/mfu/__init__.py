"""What a run needs to report its MFU (model FLOPs utilisation)."""
