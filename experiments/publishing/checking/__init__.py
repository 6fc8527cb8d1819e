"""Checks of the pages before the book is built."""
