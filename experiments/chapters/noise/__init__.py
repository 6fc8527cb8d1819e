"""The chapter on why entropies need noise."""
