"""What a run publishes: the folder of the trained model, and the adapter of a run with LoRA."""
