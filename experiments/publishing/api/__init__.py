"""Makes the reference pages from docstrings."""
