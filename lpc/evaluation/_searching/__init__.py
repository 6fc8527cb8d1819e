"""Searches: for nearest neighbours among points, and for the best mixture of two normals."""
