"""Low-dimensional embeddings of the 2025 release."""
