"""Where papers and released code disagree, and what that moves."""
