"""Slow, independent float64 NumPy references, of solvers and of methods."""
