"""What trains, measures and mirrors runs: here, in worker processes, on SLURM."""
