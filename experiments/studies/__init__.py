"""Declaration, training, selection and records of runs: profiles, schedules, the two kinds of study."""
