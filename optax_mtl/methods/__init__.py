"""The methods, one file each; those that take a preference are in `pareto`.

The functions are exported by `optax_mtl` itself; import a method's module for
the class of its state.
"""
