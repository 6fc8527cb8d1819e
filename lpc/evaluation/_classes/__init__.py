"""Classes of points: means, sums and the nearest mean, shared by several measurements."""
