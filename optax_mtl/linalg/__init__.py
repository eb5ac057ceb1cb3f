"""Linear algebra on trees of stacked task gradients."""

from optax_mtl.linalg.alike import stack_alike
from optax_mtl.linalg.rows import beside, choose
from optax_mtl.linalg.stacked import (
  combine,
  cross_gram,
  finite,
  gram,
  project,
  scaled,
  squared_norms,
  tree_finite,
)

__all__ = [
  "beside",
  "choose",
  "combine",
  "cross_gram",
  "finite",
  "gram",
  "project",
  "scaled",
  "squared_norms",
  "stack_alike",
  "tree_finite",
]
