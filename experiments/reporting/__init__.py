"""Content of pages: tables, claims and their verdicts, and the statistics of a few seeds."""
