"""Solutions of the equations, in NumPy and float64, from formulas."""
