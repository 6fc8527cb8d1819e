"""Where the two papers meet: entropies, noise and scale."""
