"""Small convex problems on `[T, T]` and `[T]`, each with a certificate."""

from optax_mtl.solvers._certificate import Certificate as Certificate
from optax_mtl.solvers._certificate import Status as Status
from optax_mtl.solvers._certificate import (
  initial_certificate as initial_certificate,
)
from optax_mtl.solvers.bargaining import fairness as fairness
from optax_mtl.solvers.bargaining import nash_bargaining as nash_bargaining
from optax_mtl.solvers.cone import conic_direction as conic_direction
from optax_mtl.solvers.conflict_averse import cagrad_weights as cagrad_weights
from optax_mtl.solvers.dual_cone import project_dual_cone as project_dual_cone
from optax_mtl.solvers.gains import nearest_with_gains as nearest_with_gains
from optax_mtl.solvers.min_norm import min_norm as min_norm
from optax_mtl.solvers.min_norm import min_norm_trace as min_norm_trace
from optax_mtl.solvers.orthogonal import orthogonal_parts as orthogonal_parts
from optax_mtl.solvers.simplex import project_simplex as project_simplex
from optax_mtl.solvers.spectral import aligned_weights as aligned_weights
from optax_mtl.solvers.spectral import (
  conflict_free_direction as conflict_free_direction,
)
from optax_mtl.solvers.spectral import equal_projections as equal_projections
