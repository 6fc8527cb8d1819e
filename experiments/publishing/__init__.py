"""Turns chapters into a book: executes, checks, builds and prints them."""
