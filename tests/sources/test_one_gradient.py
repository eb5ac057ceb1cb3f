"""One task's gradient by its number, and the gradients' lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_task_gradients import (
  ALL,
  KNOW,
  TRUNK,
  T,
  assert_trees_close,
  rows,
  source,
)

import optax_mtl
from optax_mtl.sources import as_task_gradients


@pytest.mark.parametrize("kind", ALL)
def test_one_gradient_and_the_lengths(kind):
  """Of each task by its number, and the diagonal of the Gram matrix."""
  want = rows()
  forms = [source(kind)[1], source(kind)[1].on_trunk(TRUNK)]
  if kind in KNOW:
    forms.append(source(kind, shared=TRUNK)[1])
  for grads in forms:

    @jax.jit
    def traced(task, grads=grads):
      return grads.gradient_of(task), grads.squared_norms()

    for task in range(T):
      got, squares = traced(task)
      assert_trees_close(got, jax.tree.map(lambda leaf, t=task: leaf[t], want))
    assert_trees_close(grads.gradient_of(1), jax.tree.map(lambda x: x[1], want))
    np.testing.assert_allclose(squares, jnp.diagonal(grads.gram()), rtol=1e-5)
    if kind == "representation":
      with pytest.raises(ValueError, match="norm_params= chooses"):
        grads.squared_norms(TRUNK, name="norm_params")
      continue
    only_a = {"trunk": {"a": True, "b": False}, "heads": False}
    got = grads.squared_norms(only_a)
    np.testing.assert_allclose(got, jnp.diagonal(grads.gram(only_a)), rtol=1e-5)
  # Out of range: clipped where it is not known, else refused.
  assert_trees_close(traced(T)[0], jax.tree.map(lambda leaf: leaf[-1], want))
  for wrong, error, message in (
    (T, ValueError, r"task must lie in \[0, 2\]"),
    (-1, ValueError, "got -1"),
    (1.0, TypeError, "scalar int"),
    (jnp.arange(2), TypeError, r"int32\[2\]"),
  ):
    with pytest.raises(error, match=message):
      grads.gradient_of(wrong)


def test_norms_of_a_step():
  """Square roots, and 0 where a task is absent, whatever its gradient is."""
  tree = jnp.array([[3.0, 4.0], [jnp.nan, 1.0], [0.0, 2.0]])
  for keep, want in (
    (None, [5.0, jnp.nan, 2.0]),
    (jnp.array([True, False, True]), [5.0, 0.0, 2.0]),
  ):
    step = optax_mtl.Step("a", as_task_gradients(tree, 3), keep, {})
    np.testing.assert_array_equal(step.norms(), want)
