"""What a page must say, and must not, before the book is built."""
