"""Methods that take a preference, and what belongs to Pareto fronts."""

from optax_mtl.pareto.metrics import hypervolume_2d
from optax_mtl.pareto.pareto_mtl import ParetoMtlState, pareto_mtl
from optax_mtl.pareto.preferences import (
  das_dennis_directions,
  invert_preference,
  uniform_directions,
)

__all__ = [
  "ParetoMtlState",
  "das_dennis_directions",
  "hypervolume_2d",
  "invert_preference",
  "pareto_mtl",
  "uniform_directions",
]
