"""The chapter on binarity: points that are known to be binary or not, and whose axes a cube follows."""
