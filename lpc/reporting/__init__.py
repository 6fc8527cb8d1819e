"""Reports: all measures of latents and labels, each with advice on how to read it."""
