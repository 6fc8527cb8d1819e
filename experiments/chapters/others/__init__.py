"""Other ways to pull classes together: tables and figures of recorded runs."""
