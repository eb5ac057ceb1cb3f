"""What a solver says about its own answer."""

import enum
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from optax_mtl._dtypes import solver_dtype


class Status(enum.IntEnum):
  """How a solve ended, and what to do about it.

  Attributes:
    SOLVED: The residual is at most the tolerance. Nothing to do.
    STATIONARY: The problem has no solution, because a combination of the
      gradients vanishes: for the bargaining solvers one with positive weights,
      so that the point is Pareto stationary and no step improves every task.
      The answer is finite, and its docstring says what it is. Nothing is wrong
      with the solver. If training should go on all the same, use a method that
      is defined there, such as `optax_mtl.mgda` or `optax_mtl.upgrad`.
    OUT_OF_ITERATIONS: `max_iter` was reached first; the answer is the best one
      so far. Raise `max_iter`, or accept a larger `tol`.
    NOT_FINITE: An entry of the Gram matrix between two active tasks is NaN or
      infinite, and so is the answer. Look for the task whose gradient is not
      finite, or leave it out with `active`.
    AT_ROUNDING: Rounding stopped the solver above the tolerance, before
      `max_iter`: more iterations would change nothing. The residual bounds the
      error all the same. Accept a larger `tol`, or take a Gram matrix in
      float64 (`jax.config.update("jax_enable_x64", True)`).
  """

  SOLVED = 0
  STATIONARY = 1
  OUT_OF_ITERATIONS = 2
  NOT_FINITE = 3
  AT_ROUNDING = 4


class Certificate(NamedTuple):
  """How good a solver's answer is, measured on the answer itself.

  Attributes:
    residual: Scalar, `solver_dtype()`. The relative duality gap or KKT residual
      of the returned point; each solver's docstring defines it.
    iterations: Scalar int32, how many iterations were taken.
    status: Scalar int32, a `Status`: how the solve ended. `SOLVED` if and only
      if `residual` is at most the tolerance.
  """

  residual: Array
  iterations: Array
  status: Array

  @property
  def converged(self) -> Array:
    """Scalar bool, whether `status` is `SOLVED`."""
    return self.status == int(Status.SOLVED)


def initial_certificate() -> Certificate:
  """The certificate before there was anything to solve.

  Returns:
    Residual 0, no iterations, `SOLVED`. Each is a buffer of its own, so that a
    state that holds them can be donated.
  """
  return Certificate(
    residual=jnp.zeros((), solver_dtype()),
    iterations=jnp.zeros((), jnp.int32),
    status=jnp.full((), int(Status.SOLVED), jnp.int32),
  )
