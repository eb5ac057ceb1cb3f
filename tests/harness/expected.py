"""What the references return for the cases, and how runs compare."""

import functools
from typing import Any

import numpy as np
from contract import own_methods

from benchmarks.reference.methods import REFERENCES as REFERENCES
from harness.inputs import cases, flat, tasks_of
from harness.methods import build, info


def limited(name: str, weights: np.ndarray, grads: np.ndarray) -> np.ndarray:
  """What the weights come to once the update's norm is limited, [steps, T].

  The limit is the rule's `max_norm`; weights that were limited already stay.
  """
  max_norm = getattr(build(name).rule, "max_norm", None)
  if max_norm is None:
    return weights
  norms = np.linalg.norm(np.einsum("st,stp->sp", weights, grads), axis=1)
  factors = np.where(norms > max_norm, max_norm / np.maximum(norms, 1e-300), 1)
  return weights * factors[:, None]


@functools.cache
def expected_weights(name: str, case: str, tasks: tuple[int, ...]) -> Any:
  """The weights that the reference applies in a case, for some of the tasks."""
  some = tasks_of(cases()[case], tasks)
  grads = flat(some.grads, 2)
  references = REFERENCES | own_methods.REFERENCES
  extra = some.extra | {"second_grads": flat(some.second, 2)}
  weights = references[name](
    len(tasks), grads, extra, **info(name).example(tasks)
  )
  return limited(name, weights, grads)


def assert_close(
  actual: Any, desired: Any, size: Any, rtol: float, message: str = ""
) -> None:
  """Entries differ by at most `rtol` of `size`, the size of what was summed."""
  error = np.abs(np.asarray(actual) - np.asarray(desired))
  bound = rtol * np.broadcast_to(size, error.shape)
  assert (error <= bound).all(), (
    f"{message}: off by {np.max(error):.3g}, allowed {np.max(bound):.3g}"
  )
