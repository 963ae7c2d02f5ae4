"""What the tables of samples need of Parquet, beyond its libraries."""
