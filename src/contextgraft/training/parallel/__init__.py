"""Context parallelism: one sequence over many processes, attention in rings layered by topology."""
