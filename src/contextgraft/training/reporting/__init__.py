"""What a run reports while it trains: metrics of every step, TensorBoard events, progress lines."""
