"""The solvers as they are fuzzed: each with its judge."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from benchmarks.faults import judges, judges_of_bounds
from optax_mtl import solvers

#: Function of a problem's arrays, as `draws.Filled` has them, to an answer and
#: its certificate.
Solve = Callable[[Any], tuple[Array, solvers.Certificate]]


class Subject(NamedTuple):
  """A solver under test.

  Attributes:
    solve: What runs.
    judge: Who says whether it is true.
    tol: What the certificate's residual is at most where it says `SOLVED`.
    may_run_out: Whether so few iterations may be too few. A solver that ends by
      itself must not come to the limit.
  """

  solve: Solve
  judge: judges.Judge
  tol: float
  may_run_out: bool = False


def _first_order(variant: Any) -> Subject:
  # They crawl where lengths differ; so many steps tell a wrong one from a
  # right one, and say how far it came.
  def solve(given: Any) -> tuple[Array, solvers.Certificate]:
    return solvers.min_norm(
      given.grams, variant=variant, active=given.active, max_iter=100
    )

  return Subject(solve, judges.min_norm, 1e-5, may_run_out=True)


def _simplex(given: Any) -> tuple[Array, solvers.Certificate]:
  point = solvers.project_simplex(
    given.vectors[1] * given.alpha, active=given.active
  )
  # It has none. Nor does it see the matrix: its status is not about that.
  bad = jnp.any(
    ~jnp.isfinite(given.grams) & given.active[:, None] & given.active[None, :]
  )
  status = jnp.where(bad, int(solvers.Status.NOT_FINITE), 0)
  none = solvers.initial_certificate()
  return jnp.where(bad & given.active, jnp.nan, point), none._replace(
    status=status.astype(jnp.int32)
  )


SUBJECTS: Mapping[str, Subject] = {
  "min_norm": Subject(
    lambda given: solvers.min_norm(given.grams, active=given.active),
    judges.min_norm,
    8 * judges.EPS,
  ),
  "min_norm, pairwise": _first_order("pairwise"),
  "min_norm, away": _first_order("away"),
  "min_norm, vanilla": _first_order("vanilla"),
  "min_norm, cap": Subject(
    lambda given: solvers.min_norm(
      given.grams, cap=given.cap, active=given.active
    ),
    judges_of_bounds.capped,
    8 * judges.EPS,
  ),
  "project_dual_cone": Subject(
    lambda given: solvers.project_dual_cone(
      given.grams, given.vectors, active=given.active
    ),
    judges.dual_cone,
    16 * judges.EPS,
  ),
  "cagrad_weights": Subject(
    lambda given: solvers.cagrad_weights(
      given.grams, given.c, active=given.active
    ),
    judges.cagrad,
    16 * judges.EPS,
  ),
  "nash_bargaining": Subject(
    lambda given: solvers.nash_bargaining(given.grams, active=given.active),
    judges.nash,
    800 * judges.EPS,
  ),
  "fairness": Subject(
    lambda given: solvers.fairness(
      given.grams, given.alpha, active=given.active
    ),
    judges.fairness,
    800 * judges.EPS,
  ),
  "equal_projections": Subject(
    lambda given: solvers.equal_projections(given.grams, active=given.active),
    judges.equal_projections,
    64 * judges.EPS,
  ),
  "conflict_free_direction": Subject(
    lambda given: solvers.conflict_free_direction(
      given.grams, active=given.active
    ),
    judges.conflict_free,
    64 * judges.EPS,
  ),
  "aligned_weights": Subject(
    lambda given: solvers.aligned_weights(
      given.grams, preference=given.preference, active=given.active
    ),
    judges.aligned,
    3000 * judges.EPS,
  ),
  "nearest_with_gains": Subject(
    lambda given: solvers.nearest_with_gains(
      given.grams,
      given.start,
      given.gains,
      constrained=given.constrained,
      active=given.active,
    ),
    judges_of_bounds.gains,
    16 * judges.EPS,
  ),
  "conic_direction": Subject(
    lambda given: solvers.conic_direction(
      given.grams, given.cosine, active=given.active
    ),
    judges_of_bounds.cone,
    32 * judges.EPS,
  ),
  "orthogonal_parts": Subject(
    lambda given: solvers.orthogonal_parts(given.grams, active=given.active),
    judges_of_bounds.orthogonal,
    64 * judges.EPS,
  ),
  "project_simplex": Subject(_simplex, judges.simplex, 0.0),
}
