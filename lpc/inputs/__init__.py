"""What other people give: batches, networks, and the features that these return."""
