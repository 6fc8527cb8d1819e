"""The chapter on robustness and reliability."""
