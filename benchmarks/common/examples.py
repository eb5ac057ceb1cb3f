"""Every registered method as its registration says that it can be built."""

from typing import Any

import jax.numpy as jnp
import optax

import optax_mtl


def example(
  name: str, num_tasks: int, second_grads: Any = None
) -> tuple[optax.GradientTransformationExtraArgs, dict[str, Any]]:
  """The method of that name, and the extra args that it needs.

  Args:
    name: A key of `optax_mtl.METHODS`.
    num_tasks: The number of tasks T.
    second_grads: Another batch's task gradients, for a method that reads them.

  Returns:
    The transformation, and arrays [T] by name; `second_grads` as it came.

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
  extra: dict[str, Any] = dict.fromkeys(optax_mtl.facts(method).needs, half)
  if "second_grads" in extra:
    extra["second_grads"] = second_grads
  return method, extra
