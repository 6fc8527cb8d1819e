"""Reports: everything the library can say of latents and labels, each value with how to read it."""
