"""A server that runs the models of an evaluation: its section, and what a study with one cannot have."""
