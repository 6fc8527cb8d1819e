"""Names that the packages offer, and directions to modules that were moved."""
