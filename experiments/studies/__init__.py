"""What is declared, trained, selected and kept: profiles, schedules, the two kinds of runs."""
