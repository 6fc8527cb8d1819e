"""Code that takes a network: calls, attacks, and bounds through its layers."""
