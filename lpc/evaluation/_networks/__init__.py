"""What takes a network: its calls, the attacks on it, and bounds through its layers."""
