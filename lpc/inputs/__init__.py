"""Input from outside the library: batches, networks, and their features."""
