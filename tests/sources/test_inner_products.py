"""Inner products: of two batches' gradients, and of complex ones."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_task_gradients import PARAMS, TRUNK, T, X, losses, source

import optax_mtl
from optax_mtl.sources import StackedTaskGradients, as_task_gradients


@pytest.mark.parametrize("left", ["tree", "stacked", "implicit"])
@pytest.mark.parametrize("right", ["tree", "stacked", "implicit"])
def test_cross_gram(left, right):
  """Of two batches: row of the first, column of the second."""

  def of(kind, x):
    if kind == "tree":
      tree = jax.jacrev(lambda p: jnp.stack(list(losses(p, x).values())))(
        PARAMS
      )
      return StackedTaskGradients(tree, T, shared=trunk_flags())
    grads_of = optax_mtl.value_and_task_grads(
      lambda p, x: list(losses(p, x).values()), source=kind, shared=TRUNK
    )
    return grads_of(PARAMS, x)[1]

  first, second = of(left, X), of(right, jnp.array([1.5, -0.5]))
  rows, columns = (
    harness.flat(grads.stacked()["trunk"], 1) for grads in (first, second)
  )
  got = first.cross_gram(second)
  np.testing.assert_allclose(got, rows @ columns.T, rtol=1e-5)


def trunk_flags():
  return {"trunk": {"a": True, "b": True}, "heads": [False] * 3}


def test_cross_gram_refuses_what_does_not_fit():
  grads = source("implicit", shared=TRUNK)[1]
  with pytest.raises(ValueError, match="no inner product between batches"):
    grads.cross_gram(source("representation")[1])
  with pytest.raises(ValueError, match="the same shared trunk"):
    grads.cross_gram(source("implicit")[1])
  with pytest.raises(ValueError, match="the same tasks"):
    grads.cross_gram(source("tree")[1].on_trunk(TRUNK))
  other = optax_mtl.value_and_task_grads(
    lambda p: {f"task {t}": p[t] for t in range(T)}, source="implicit"
  )(jnp.ones(T))[1]
  with pytest.raises(
    ValueError, match=r"same params, but the second .* has the only leaf\."
  ):
    grads.cross_gram(other)
  narrow, wide = (as_task_gradients(jnp.ones((2, n)), 2) for n in (3, 6))
  with pytest.raises(
    ValueError, match=r"only leaf has shape \[6\] in the first and \[3\]"
  ):
    wide.cross_gram(narrow)


@pytest.mark.parametrize("kind", ["stacked", "implicit", "task batches"])
def test_complex_params(kind):
  """Lengths are those of `jax.grad`: conjugates are not left out."""
  p = jnp.array([1.0, 0.5 + 0.5j])
  targets = jnp.array([1j, 2.0])

  def one(p, target):
    return jnp.sum(jnp.square(jnp.abs(p - target)))

  if kind == "task batches":
    _, grads = optax_mtl.value_and_task_batch_grads(one)(p, targets)
  else:
    _, grads = optax_mtl.value_and_task_grads(
      lambda p: [one(p, target) for target in targets], source=kind
    )(p)
  grads = as_task_gradients(grads, 2, p)
  rows = np.stack([jax.grad(one)(p, target) for target in targets])
  want = (rows @ rows.conj().T).real
  np.testing.assert_allclose(want, [[10.0, -8.0], [-8.0, 14.0]], rtol=1e-5)
  np.testing.assert_allclose(grads.gram(), want, rtol=1e-5)
  np.testing.assert_allclose(grads.cross_gram(grads), want, rtol=1e-5)
  combined = grads.combine(jnp.array([2.0, -1.0]))
  np.testing.assert_allclose(combined, 2 * rows[0] - rows[1], rtol=1e-5)


def test_complex_params_at_a_representation():
  p = jnp.array([1.0, 0.5 + 0.5j])
  _, grads = optax_mtl.value_and_representation_grads(
    lambda p: 2 * p,
    lambda _, z: [jnp.sum(jnp.square(jnp.abs(z / 2 - t))) for t in (1j, 2.0)],
  )(p)
  np.testing.assert_allclose(
    grads.gram(), [[2.5, -2.0], [-2.0, 3.5]], rtol=1e-5
  )
