"""One prepared check of a GPU: what is right, how fast it is, and which choices are worth taking there."""
