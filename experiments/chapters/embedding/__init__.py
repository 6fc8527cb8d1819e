"""The chapter on the 2025 release's low-dimensional embeddings."""
