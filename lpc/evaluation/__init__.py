"""Measurements of latents, logits and classifiers: pure functions of arrays, computed in float64."""
