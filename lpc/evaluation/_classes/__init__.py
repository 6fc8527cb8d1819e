"""Classes of points: their means and sums, and the nearest mean; what measurements of them share."""
