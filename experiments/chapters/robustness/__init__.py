"""Robustness and reliability."""
