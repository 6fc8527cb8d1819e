"""The protocol of the papers beside that of a profile."""
