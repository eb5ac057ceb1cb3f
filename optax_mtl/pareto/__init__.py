"""Preferences, and measures of a Pareto front."""

from optax_mtl.pareto.hypervolume import hypervolume_2d as hypervolume_2d
from optax_mtl.pareto.preferences import (
  das_dennis_directions as das_dennis_directions,
)
from optax_mtl.pareto.preferences import invert_preference as invert_preference
from optax_mtl.pareto.preferences import (
  uniform_directions as uniform_directions,
)
