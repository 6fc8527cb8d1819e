"""A prepared check of a GPU: its correctness, its speed, and which faster settings pay off on it."""
