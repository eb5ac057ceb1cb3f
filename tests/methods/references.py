"""The independent float64 references, and the families of matrices.

Imported from where they live in this one place.
"""

from benchmarks.common.matrices import FAMILIES as FAMILIES
from benchmarks.reference.methods import REFERENCES as REFERENCES
from benchmarks.reference.methods.pcgrad import drawn_orders as drawn_orders
from benchmarks.reference.methods.pcgrad import surgery as surgery
from benchmarks.reference.solvers.dual_cone import (
  project_dual_cone as project_dual_cone,
)
from benchmarks.reference.solvers.min_norm import min_norm as min_norm
