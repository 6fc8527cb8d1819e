"""Where the two papers meet."""
