"""Running it on your cluster: the file, the jobs, the cost, a transcript."""
