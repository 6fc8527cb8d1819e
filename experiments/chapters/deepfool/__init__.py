"""Where the factor between DeepFool's perturbations comes from."""
