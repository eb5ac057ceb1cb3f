"""Linear algebra on trees of stacked task gradients."""

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
  "combine",
  "cross_gram",
  "finite",
  "gram",
  "project",
  "scaled",
  "squared_norms",
  "tree_finite",
]
