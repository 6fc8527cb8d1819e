"""Decoder uncertainty, its bounds, and networks that minimise it."""
