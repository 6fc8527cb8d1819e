"""Executes chapters: what they need, whether they are current, kernels and temporary folders."""
