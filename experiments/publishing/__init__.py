"""From chapters to a book: executed, checked, built, printed."""
