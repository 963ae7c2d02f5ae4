"""What layers keep between the passes of a training step, and how they keep less of it."""
