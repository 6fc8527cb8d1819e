"""Where DeepFool's factor comes from."""
