"""Other ways to pull classes together: recorded runs, as tables and figures."""
