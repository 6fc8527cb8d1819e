"""The same on a SLURM cluster: what jobs ask for, submitting them, watching them, what they do."""
