"""Every task a batch of its own: values, axes and what is refused."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import T, mlp, normal

import optax_mtl


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_task_batches(chunk_size):
  """Every task its own batch; one argument is shared by all."""
  params, trunk, _ = mlp()
  x, target = normal(8, T, 6, 4), normal(9, 6)

  def loss_fn(params, x, head, target):
    out = trunk(params, x) @ params["heads"][0] + jnp.sum(head)
    return jnp.mean(jnp.square(out - target)), out

  head = normal(10, T, 2)
  grads_of = optax_mtl.value_and_task_batch_grads(
    loss_fn, has_aux=True, in_axes=(0, 0, None), chunk_size=chunk_size
  )
  (losses, aux), grads = jax.jit(grads_of)(params, x, head, target)
  assert aux.shape == (T, 6)
  one = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  for t in range(T):
    (loss, out), grad = one(params, x[t], head[t], target)
    np.testing.assert_allclose(losses[t], loss, rtol=1e-5)
    np.testing.assert_allclose(aux[t], out, rtol=1e-4, atol=1e-5)
    got = harness.flat(jax.tree.map(lambda g, t=t: g[t], grads), 0)
    want = harness.flat(grad, 0)
    harness.assert_close(got, want, np.abs(want).max(), 1e-5)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_task_batches_take_any_axis(chunk_size):
  """In tuples, within trees of one argument, and counted from the end."""

  def loss_fn(params, batch, scale):
    return jnp.sum(params * batch["x"]) * scale + jnp.sum(batch["bias"])

  grads_of = optax_mtl.value_and_task_batch_grads(
    loss_fn, in_axes=({"x": -1, "bias": None}, 0), chunk_size=chunk_size
  )
  x, scale = normal(1, 2, T), normal(2, T)
  losses, grads = grads_of(jnp.ones(2), {"x": x, "bias": jnp.ones(1)}, scale)
  np.testing.assert_allclose(losses, np.sum(x, 0) * scale + 1, rtol=1e-5)
  np.testing.assert_allclose(grads, x.T * scale[:, None], rtol=1e-5)


def test_task_batches_refuse_axes_that_are_not_there():
  loss_fn = lambda p, x: jnp.sum(p * x)  # noqa: E731
  with pytest.raises(ValueError, match="At least one of the args"):
    optax_mtl.value_and_task_batch_grads(loss_fn, in_axes=None)(
      jnp.ones(2), jnp.ones(2)
    )
  with pytest.raises(ValueError, match="one entry for each of the 1 args"):
    optax_mtl.value_and_task_batch_grads(loss_fn, in_axes=(0, 0))(
      jnp.ones(2), jnp.ones((T, 2))
    )
