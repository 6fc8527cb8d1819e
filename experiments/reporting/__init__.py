"""What a page may say: tables, claims and their verdicts, what a few seeds can show."""
