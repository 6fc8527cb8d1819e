"""Where papers and released code disagree, and what difference that makes."""
