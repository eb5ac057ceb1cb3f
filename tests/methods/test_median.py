"""The median is the trimmed mean that trims most."""

import jax
import jax.numpy as jnp
import numpy as np
from one_step import step

import optax_mtl


def test_values():
  """Of each number of tasks NumPy's, bit by bit; half and half is the mean."""
  with jax.enable_x64(True):
    grads = np.random.default_rng(0).standard_normal((5, 50))
    tx = optax_mtl.median(5)
    for number in range(1, 6):
      updates, _ = step(tx, grads, active=np.arange(5) < number)
      # Of an even number the same half of a sum.
      expected = np.median(grads[:number], axis=0)
      np.testing.assert_array_equal(updates, expected)
    most, _ = step(optax_mtl.trimmed_mean(5, 2), grads)
    np.testing.assert_array_equal(updates, most)


def test_complex_params():
  """The parts have medians of their own."""
  grads = jnp.array([1 + 5j, 2 + 4j, 9 - 3j], jnp.complex64)[:, None]
  tx = optax_mtl.median(3)
  updates, _ = tx.update(grads, tx.init(grads[0]))
  assert updates.dtype == jnp.complex64 and updates[0] == 2 + 4j


def test_the_trunk_alone():
  """At heads most tasks have zero gradients, and the median is zero."""
  params = {"trunk": jnp.zeros(2), "head": jnp.zeros(1)}
  grads = {
    "trunk": jnp.array([[1.0, 2.0], [2.0, 9.0], [7.0, 3.0]]),
    "head": jnp.array([[5.0], [0.0], [0.0]]),
  }
  for shared, head in (({"trunk": True, "head": False}, 5.0), (True, 0.0)):
    tx = optax_mtl.on_trunk(optax_mtl.median(3), shared)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates["trunk"].tolist() == [2.0, 3.0]
    assert updates["head"].tolist() == [head]
