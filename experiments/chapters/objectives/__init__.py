"""One objective behind many."""
