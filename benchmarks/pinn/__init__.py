"""Does it matter which method: physics-informed networks."""
