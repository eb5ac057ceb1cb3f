"""Slow, independent float64 NumPy references."""
