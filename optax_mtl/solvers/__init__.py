"""Small convex problems on `[T, T]` and `[T]`, each with a certificate."""

from optax_mtl.solvers._certificate import Certificate as Certificate
from optax_mtl.solvers.min_norm import min_norm as min_norm
from optax_mtl.solvers.min_norm import min_norm_trace as min_norm_trace
from optax_mtl.solvers.simplex import project_simplex as project_simplex
