"""Every registered method as its registration says that it can be built."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import optax_mtl


def example(
  name: str, num_tasks: int
) -> tuple[optax.GradientTransformationExtraArgs, dict[str, jax.Array]]:
  """The method of that name, and the extra args that it needs.

  Args:
    name: A key of `optax_mtl.METHODS`.
    num_tasks: The number of tasks T.

  Returns:
    The transformation, and arrays [T] by name.

  Example:
    >>> _, extra = example("dwa", 2)
    >>> extra["losses"].tolist()
    [0.5, 0.5]
  """
  build = optax_mtl.METHODS[name]
  kwargs: dict[str, Any] = dict(build.info.example(tuple(range(num_tasks))))
  # Losses and preferences are positive, KPIs in (0, 1).
  half = jnp.full((num_tasks,), 0.5, jnp.float32)
  method = build(num_tasks, **kwargs)
  return method, dict.fromkeys(optax_mtl.facts(method).needs, half)
