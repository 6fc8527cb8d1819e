"""The reference pages, made from docstrings."""
