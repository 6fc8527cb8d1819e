"""Sphinx extensions that the project's configuration names."""
