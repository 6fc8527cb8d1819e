"""The chapter on the one objective behind many."""
