"""How fast it is: updates, training steps, solvers, first calls."""
