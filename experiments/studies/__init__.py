"""Runs as they are declared, trained, selected and recorded: profiles, schedules, the two kinds of study."""
