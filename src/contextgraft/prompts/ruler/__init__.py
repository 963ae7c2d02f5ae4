"""The tasks of the RULER benchmark."""
