"""A point of the simplex that is learned, while tasks come and go."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from optax_mtl._step import Step


def learned(
  step: Step, point: jax.Array, learn: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """The next point, for the tasks that take part and in the memory.

  The tasks that take part have a simplex of their own, and share there what
  they have of the whole one; what absent tasks have of it stands still.

  Args:
    step: The step.
    point: Array [T] on the simplex, the memory.
    learn: Function from a point [T] of the simplex of those that take part to
      the next one.

  Returns:
    The next point of that simplex [T], NaN where it is not finite, and the next
    memory [T], which it leaves as it is then.
  """
  mass = jnp.sum(step.only_active(point))
  known = mass > 0
  start = jnp.where(
    known, point / jnp.where(known, mass, 1.0), 1.0 / step.num_active
  )
  new = learn(step.only_active(start))
  finite = jnp.all(jnp.isfinite(step.only_active(new)))
  learns = step.active & finite
  return jnp.where(finite, new, jnp.nan), step.hold(mass * new, point, learns)


def finite_or_nan(value: jax.Array) -> jax.Array:
  """`value`, all of it NaN where some is not finite: so that it shows.

  A projection on the simplex takes -inf for a task that is to have nothing.
  """
  return jnp.where(jnp.all(jnp.isfinite(value)), value, jnp.nan)
