"""A prepared check of a GPU: correctness, speed, and the choices that pay off there."""
