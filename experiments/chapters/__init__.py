"""What single pages compute: ``chapters.noise`` belongs to ``book/noise.md``."""
