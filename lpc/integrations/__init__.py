"""Latent point collapse in other people's training: a plain loop, and Lightning."""
