"""Code of single pages: ``chapters.noise`` belongs to ``book/noise.md``."""
