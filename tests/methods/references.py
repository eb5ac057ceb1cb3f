"""The independent float64 references, and the families of matrices.

Imported from where they live in this one place.
"""

import reference.gram_methods  # (registers its references)
from matrices import FAMILIES as FAMILIES
from reference.dual_cone import project_dual_cone as project_dual_cone
from reference.gram_methods import drawn_orders as drawn_orders
from reference.gram_methods import surgery as surgery
from reference.methods import REFERENCES as REFERENCES
from reference.min_norm import min_norm as min_norm

__all__ = [
  "FAMILIES",
  "REFERENCES",
  "drawn_orders",
  "min_norm",
  "project_dual_cone",
  "reference",
  "surgery",
]
