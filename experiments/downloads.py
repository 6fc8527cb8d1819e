"""What readers take from a page: its notebook, its source, its tables, figures and runs as files."""
