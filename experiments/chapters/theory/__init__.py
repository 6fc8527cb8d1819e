"""The chapter on theory: the loss without a network, and the logit gap that a run can hold."""
