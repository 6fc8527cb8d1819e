"""Disagreements of papers and released code, and their effects."""
