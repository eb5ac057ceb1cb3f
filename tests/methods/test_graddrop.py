"""GradDrop: which sign survives, at the params and at the representation."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from one_step import close, step, together

import optax_mtl
from benchmarks.reference.methods import REFERENCES
from benchmarks.reference.methods.graddrop import drawn_uniforms, drop


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


GRADS = np.random.default_rng(0).standard_normal((50, 3, 40))


def test_the_algorithm():
  """50 steps on params of one leaf, with the numbers that were drawn."""
  leaks = [0.0, 0.25, 1.0]
  txs = {"": optax_mtl.graddrop(3), "leaky": optax_mtl.graddrop(3, leaks)}
  runs = together(txs, GRADS)
  reference = REFERENCES["graddrop"]
  close(runs[""][0], reference(3, GRADS, {}), 1e-12, 1e-12)
  expected = reference(3, GRADS, {}, leak=np.array(leaks))
  close(runs["leaky"][0], expected, 1e-12, 1e-12)


def test_its_mean_is_no_weighted_sum():
  """Over the draws an entry's mean is `P Σ g⁺ + (1-P) Σ g⁻`, as in the paper.

  4000 draws of numbers of standard deviation s are off by five s / √4000 at
  most.
  """
  grads = np.array([[1.0, 2.0, -1.0], [-2.0, 1.0, -3.0], [0.5, -0.5, -1.0]])
  many = np.tile(grads[:, None, :], (1, 4000, 1))
  updates, _ = step(optax_mtl.graddrop(3), many.reshape(3, -1))
  updates = np.asarray(updates).reshape(4000, 3)
  up, down = np.maximum(grads, 0).sum(0), np.minimum(grads, 0).sum(0)
  purity = up / (up - down)
  mean = purity * up + (1 - purity) * down
  spread = (up - down) * np.sqrt(purity * (1 - purity))
  assert (abs(updates.mean(0) - mean) <= 5 * spread / np.sqrt(4000)).all()
  # Where all agree it is the sum.
  np.testing.assert_array_equal(updates[:, 2], -5.0)


def test_leaks():
  """1 for all is the sum; by name they are the named tasks'."""
  grads = GRADS[0]
  updates, _ = step(optax_mtl.graddrop(3, 1.0), grads)
  close(updates, grads.sum(axis=0), 1e-12, 1e-12)
  losses = {n: jnp.ones(()) for n in "abc"}
  named = optax_mtl.graddrop(3, {"b": 1.0, "c": 0.0, "a": 0.5})
  of_list, _ = step(optax_mtl.graddrop(3, [0.5, 1.0, 0.0]), grads)
  of_dict, _ = step(named, grads, losses=losses)
  np.testing.assert_array_equal(of_dict, of_list)


@hypothesis.settings(
  max_examples=30, deadline=None, derandomize=True, database=None
)
@hypothesis.given(st.integers(0, 2**31), st.integers(1, 20))
def test_one_sign_survives(seed, num_tasks):
  """The paper's: no entry has parts of both signs, whatever the gradients."""
  rng = np.random.default_rng(seed)
  grads = np.zeros((20, 8))
  grads[:num_tasks] = rng.standard_normal(
    (num_tasks, 8)
  ) * 10.0 ** rng.integers(-30, 30, size=(num_tasks, 8))
  tx = optax_mtl.graddrop(20, seed=np.int32(seed))
  updates, _ = step(tx, grads, active=np.arange(20) < num_tasks)
  up, down = np.maximum(grads, 0).sum(0), np.minimum(grads, 0).sum(0)
  error = np.minimum(abs(updates - up), abs(updates - down))
  assert (error <= 1e-14 * np.maximum(up, -down)).all()


def test_complex_params():
  """A complex gradient is two real ones, with a sign each."""
  grads = GRADS[0, :, :20] + 1j * GRADS[0, :, 20:]
  tx = optax_mtl.graddrop(3)
  updates, _ = tx.update(jnp.asarray(grads), tx.init(jnp.asarray(grads[0])))
  for part, leaf in ((np.real, 0), (np.imag, 1)):
    uniform = drawn_uniforms(1, (20,), leaf=leaf)[0]
    rows = part(grads)
    close(part(updates), drop(rows, rows, uniform, np.zeros(3)), 1e-12)


# At the representation.
RNG = np.random.default_rng(1)
PARAMS = {
  "trunk": RNG.standard_normal((3, 4)),
  "gate": RNG.standard_normal(4),
  "heads": RNG.standard_normal((3, 4)),
}
X = RNG.standard_normal((5, 3))
SHARED = {"trunk": True, "gate": True, "heads": False}


def trunk(params, x):
  return jnp.tanh(x @ params["trunk"])


def heads(params, z, x):
  """The gate is shared, and read beside the representation."""
  del x
  z = z * params["gate"][None]
  return [
    jnp.mean((z @ head - t) ** 2) for t, head in enumerate(params["heads"])
  ]


def one_vector(params, z, x):
  """The same, in a form that is not taken apart."""
  return jnp.stack(heads(params, z, x)) * 1


def expected(params, axis, leaks, active):
  """Algorithm 1, with the gradients that `jax.jacrev` gives."""
  z, back = jax.vjp(lambda p: trunk(p, jnp.asarray(X)), params)
  own, at_z = jax.jacrev(one_vector, argnums=(0, 1))(params, z, X)
  rows = np.where(active[:, None, None], at_z, 0)
  signed = rows * np.sign(z)
  if axis is not None:
    signed = signed.sum(axis=axis + 1, keepdims=True)
  shape = [n for i, n in enumerate(z.shape) if i != axis]
  uniform = drawn_uniforms(1, tuple(shape))[0].reshape(signed.shape[1:])
  (through,) = back(jnp.asarray(drop(rows, signed, uniform, leaks)))
  return jax.tree.map(
    lambda a, b: a + np.tensordot(active.astype(float), b, 1), through, own
  )


@pytest.mark.parametrize(
  "heads_fn, axis", [(heads, 0), (heads, None), (one_vector, 0)]
)
def test_at_the_representation(heads_fn, axis):
  """One sign a feature, or one an example's feature; the heads are left alone.

  What does not pass through the representation, as the gate, is summed.
  """
  params = jax.tree.map(jnp.asarray, PARAMS)
  leaks, active = np.array([0.0, 0.5, 0.0]), np.array([True, True, False])
  tx = optax_mtl.graddrop(3, leaks, batch_axis=axis)
  source = optax_mtl.value_and_representation_grads(
    trunk, heads_fn, shared=SHARED
  )

  @jax.jit
  def run(params):
    _, grads = source(params, jnp.asarray(X))
    return tx.update(grads, tx.init(params), params, active=active)[0]

  wanted = expected(params, axis, leaks, active)
  jax.tree.map(lambda a, b: close(a, b, 1e-10, 1e-12), run(params), wanted)


def test_around_the_representation():
  """Seen through a wrapper that scales the gradients, it is the same draw."""
  params = jax.tree.map(jnp.asarray, PARAMS)
  logs = lambda p, z, x: [jnp.log(x) for x in heads(p, z, x)]  # noqa: E731
  found = []
  for heads_fn, wrap in ((heads, optax_mtl.log_losses), (logs, lambda tx: tx)):
    tx = wrap(optax_mtl.graddrop(3))
    losses, grads = optax_mtl.value_and_representation_grads(trunk, heads_fn)(
      params, jnp.asarray(X)
    )
    found.append(tx.update(grads, tx.init(params), losses=losses)[0])
  jax.tree.map(lambda a, b: close(a, b, 1e-10, 1e-12), *found)


def test_a_nan_at_the_representation_shows():
  losses = lambda p, z: [jnp.sum(z), jnp.sum(jnp.sqrt(z - z))]  # noqa: E731
  grads_of = optax_mtl.value_and_representation_grads(lambda p: p * 2, losses)
  tx, params = optax_mtl.graddrop(2, batch_axis=None), jnp.ones(3)
  _, grads = grads_of(params)
  updates, _ = tx.update(grads, tx.init(params))
  assert np.isnan(updates).all()
  without, _ = tx.update(grads, tx.init(params), active=[True, False])
  np.testing.assert_array_equal(without, 2.0)


def test_errors():
  with pytest.raises(ValueError, match=r"leak must lie in \[0, 1\].*1.5"):
    optax_mtl.graddrop(2, [0.0, 1.5])
  with pytest.raises(TypeError, match="batch_axis must be an int or None"):
    optax_mtl.graddrop(2, batch_axis=0.0)
  with pytest.raises(TypeError, match="seed must be an integer"):
    optax_mtl.graddrop(2, seed=0.5)
  grads_of = optax_mtl.value_and_representation_grads(
    lambda p: {"z": jnp.sum(p)}, lambda p, z: [z["z"], z["z"] ** 2]
  )
  tx, params = optax_mtl.graddrop(2), jnp.ones(2)
  with pytest.raises(ValueError, match=r"batch_axis=0 .* leaf \['z'\].*\[\]"):
    tx.update(grads_of(params)[1], tx.init(params))
