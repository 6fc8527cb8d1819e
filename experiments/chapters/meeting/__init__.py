"""Common ground of the two papers: entropies, noise and scale."""
