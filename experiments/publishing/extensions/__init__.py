"""Extensions of Sphinx that the root's own configuration names."""
