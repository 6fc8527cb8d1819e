"""What the library's functions cost, timed beside other libraries."""
