"""Probes: measurements of trained runs, taken afterwards; each module has the name of its probe."""
