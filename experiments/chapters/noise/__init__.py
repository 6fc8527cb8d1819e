"""Why entropies need noise."""
