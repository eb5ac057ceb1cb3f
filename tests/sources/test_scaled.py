"""Gradients times a number each: all that is asked, as of the scaled tree."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import T

import optax_mtl
from optax_mtl.sources.scaled import ScaledTaskGradients
from optax_mtl.sources.stacked import as_task_gradients

SCALES = jnp.array([2.0, 0.5, -3.0])


def losses_of(params, x):
  hidden = jnp.tanh(x @ params["trunk"]["kernel"] + params["trunk"]["bias"])
  out = hidden @ jnp.ones((5, T)) + jnp.sum(params["head"])
  return jnp.stack(
    [jnp.mean(jnp.abs(out[:, t] - t) ** (t + 1.5)) for t in range(T)]
  )


def gradients(source):
  x = jax.random.normal(jax.random.key(0), (4, 2))
  _, grads = optax_mtl.value_and_task_grads(losses_of, source=source)(
    harness.params(), x
  )
  return as_task_gradients(grads, T)


@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_all_that_is_asked(source):
  plain = gradients(source)
  tree = jax.tree.map(
    lambda g: g * SCALES.reshape((-1,) + (1,) * (g.ndim - 1)), plain.stacked()
  )
  want, got = as_task_gradients(tree, T), ScaledTaskGradients(plain, SCALES)
  weights, keep = jnp.array([1.0, 2.0, 0.0]), jnp.array([True, True, False])
  kernel = {"head": False, "trunk": {"kernel": True, "bias": False}}

  def asked(grads, other):
    on_trunk = grads.on_trunk(harness.SHARED)
    return (
      grads.stacked(),
      grads.gram(),
      on_trunk.gram(),
      grads.squared_norms(kernel),
      grads.gradient_of(2),
      grads.map_gradients(lambda row: [jnp.max(leaf) for leaf in row], kernel),
      grads.combine(weights, keep=keep),
      on_trunk.combine(weights),
      grads.cross_gram(other),
      other.cross_gram(grads),
    )

  np.testing.assert_array_equal(got.finite(), want.finite())
  # With another batch that is scaled, and one that is not.
  for other in (plain, got):
    pair = want if other is got else as_task_gradients(plain.stacked(), T)
    for mine, theirs in zip(
      jax.tree.leaves(asked(got, other)),
      jax.tree.leaves(asked(want, pair)),
      strict=True,
    ):
      # Sums of at most 13 products, in two orders.
      size = np.abs(np.asarray(theirs, float)).max()
      harness.assert_close(mine, theirs, size, 1e-5)


def test_a_scale_that_is_not_finite():
  scaled = ScaledTaskGradients(gradients("stacked"), SCALES.at[1].set(jnp.nan))
  np.testing.assert_array_equal(scaled.finite(), [True, False, True])


def test_at_a_representation():
  """There the leaves cannot be chosen among, scaled or not."""
  _, grads = optax_mtl.value_and_representation_grads(
    lambda p: 2 * p, lambda p, z: jnp.stack([jnp.sum(z), jnp.sum(z**2)])
  )(jnp.ones(2))
  scales = jnp.array([3.0, 0.5])
  scaled = ScaledTaskGradients(grads, scales)
  want = grads.gram() * jnp.outer(scales, scales)
  np.testing.assert_allclose(scaled.gram(), want, rtol=1e-6)
  np.testing.assert_allclose(
    scaled.squared_norms(), jnp.diagonal(want), rtol=1e-6
  )
  largest = lambda row: jnp.max(jnp.abs(row[0]))  # noqa: E731
  np.testing.assert_allclose(
    scaled.map_gradients(largest),
    scales * grads.map_gradients(largest),
    rtol=1e-6,
  )
  with pytest.raises(ValueError, match="norm_params= chooses among the params"):
    scaled.gram(True, name="norm_params")


def test_terms_that_are_not_there():
  """They stay away: what comes next asks the gradients."""
  plain = gradients("stacked")
  plain.present = (True, False, True)
  found = ScaledTaskGradients(plain, SCALES).taking_part(None)
  np.testing.assert_array_equal(found, plain.present)
