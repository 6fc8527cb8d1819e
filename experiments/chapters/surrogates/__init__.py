"""The chapter on surrogate regularizers."""
