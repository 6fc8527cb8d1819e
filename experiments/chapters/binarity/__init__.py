"""The chapter on binarity: points known to be binary or not, and the optimizer whose axes a cube follows."""
