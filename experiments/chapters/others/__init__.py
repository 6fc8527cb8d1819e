"""What else collapses: what is recorded of other ways to pull classes together, as tables and a figure."""
