"""The chapter on information quantities and their diagrams."""
