"""Factor."""
