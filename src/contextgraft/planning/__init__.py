"""What runs cost: FLOPs, memory, time, disk, Slurm resources."""
