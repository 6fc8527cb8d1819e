"""Computation of results: devices, threads, precision, random generators, and reasons to stop."""
