"""What pages show: tables, claims and their verdicts, and statistics of a few seeds."""
