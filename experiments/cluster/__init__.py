"""Training on a SLURM cluster: resources, submission and state of jobs, and the work they do."""
