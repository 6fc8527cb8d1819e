"""Execute chapters: what they need, whether they are current, kernels and scratch folders."""
