"""URGT in JAX: a multi-patch refiner of coarse depth and normal maps."""
