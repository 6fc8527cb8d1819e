"""What is run, and what came out: profiles, the ablation, the claims ledger, chapters and the book."""
