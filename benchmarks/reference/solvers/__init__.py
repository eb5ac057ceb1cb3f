"""References of the solvers: a file for each problem."""
