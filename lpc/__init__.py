"""Latent point collapse: bottleneck heads, losses, training, and measurements that survive collapse."""
