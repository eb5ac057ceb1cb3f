"""Linear algebra on trees of stacked task gradients."""

from optax_mtl.linalg.entries import (
  largest,
  lengths,
  row_totals,
  total,
  tree_finite,
)
from optax_mtl.linalg.rows import beside, choose, zeros
from optax_mtl.linalg.stacked import (
  combine,
  cross_gram,
  finite,
  gram,
  project,
  scaled,
  squared_norms,
)

__all__ = [
  "beside",
  "choose",
  "combine",
  "cross_gram",
  "finite",
  "gram",
  "largest",
  "lengths",
  "project",
  "row_totals",
  "scaled",
  "squared_norms",
  "total",
  "tree_finite",
  "zeros",
]
