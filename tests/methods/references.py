"""The independent float64 references, and the families of matrices.

Imported from where they live in this one place.
"""

from benchmarks.common.matrices import FAMILIES
from benchmarks.reference.methods import REFERENCES
from benchmarks.reference.methods.gradvac import vaccine
from benchmarks.reference.methods.mgda import (
  shortest_below,
  shortest_in_hull,
)
from benchmarks.reference.methods.pcgrad import drawn_orders, surgery
from benchmarks.reference.solvers.dual_cone import project_dual_cone

__all__ = [
  "FAMILIES",
  "REFERENCES",
  "drawn_orders",
  "project_dual_cone",
  "shortest_below",
  "shortest_in_hull",
  "surgery",
  "vaccine",
]
