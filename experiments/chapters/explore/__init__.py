"""The page on which the reader moves gamma."""
