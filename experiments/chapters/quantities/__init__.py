"""Information quantities and their diagrams."""
