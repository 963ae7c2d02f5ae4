"""What models are evaluated on, one module a suite."""
