"""Probes: measurements of runs that have been trained; most modules bear the name of their probe."""
