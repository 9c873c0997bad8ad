"""How cost and quality of a refiner grow with the number of patches."""
