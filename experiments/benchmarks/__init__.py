"""Cost of the library's functions, timed beside other libraries."""
