"""Sources of the factor between DeepFool's perturbations."""
