"""Programs that show the metrics of a run while it trains: TensorBoard, Weights & Biases, MLflow."""
