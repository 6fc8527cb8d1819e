"""Surrogate regularizers on networks."""
