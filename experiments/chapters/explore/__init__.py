"""The page on which readers move gamma."""
