"""The page *Running it on your cluster*: the profile file, the jobs, the cost, a transcript."""
