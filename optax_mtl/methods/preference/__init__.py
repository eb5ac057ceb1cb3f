"""Methods that are told which point of the Pareto front is wanted."""

from optax_mtl.methods.preference.pareto_mtl import pareto_mtl as pareto_mtl
