"""Execution of chapters: their needs, their staleness, kernels and scratch folders."""
