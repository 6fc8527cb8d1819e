"""The loss without a network, and the gap that a run holds."""
