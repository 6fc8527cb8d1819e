"""Decoder uncertainty."""
