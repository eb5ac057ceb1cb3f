"""Bloop: the main loss descends as alone, whatever the others are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_step import close, step, together

import optax_mtl


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def test_no_test_of_conflict():
  """The sheet's: auxiliary gradients (1, 1) and (-1, 1) both give (1, λ)."""
  for auxiliary in ([1.0, 1.0], [-1.0, 1.0]):
    updates, _ = step(optax_mtl.bloop(2), [[1.0, 0.0], auxiliary])
    close(updates, [1.0, 0.1])


def authors(grads, strength, rate):
  """The authors' loop without its epsilon: the average starts at a gradient."""
  average, out = grads[0, 0], []
  for main, auxiliary in grads:
    average = average + rate * (main - average)
    ratio = average @ auxiliary / (average @ average)
    out.append(main + strength * (auxiliary - ratio * average))
  return np.stack(out)


def test_the_authors_loop():
  grads = np.random.default_rng(0).standard_normal((6, 2, 5))
  tx = optax_mtl.bloop(2, auxiliary_weight=0.7, decay=0.75)
  updates, states = together({"": tx}, grads)[""]
  close(updates, authors(grads, 0.7, 0.25), 1e-12)
  # What is added to the main gradient is orthogonal to the average.
  added = np.asarray(updates) - grads[:, 0]
  close(np.sum(added * states.main_average, axis=1), np.zeros(6), atol=1e-13)


def test_several_auxiliaries_by_name():
  """Each by itself: the projection is linear."""
  grads = np.random.default_rng(1).standard_normal((3, 4))
  losses = {n: jnp.ones(()) for n in ("a", "main", "z")}
  strengths = {"z": 2.0, "main": 9.0, "a": 0.5}
  tx = optax_mtl.bloop(3, "main", auxiliary_weight=strengths)
  updates, _ = step(tx, grads, losses=losses)
  expected = grads[1].copy()
  for row, strength in ((0, 0.5), (2, 2.0)):
    along = grads[row] @ grads[1] / (grads[1] @ grads[1])
    expected += strength * (grads[row] - along * grads[1])
  close(updates, expected, 1e-12)
  with pytest.raises(
    ValueError, match="main='b', but the tasks are a, main, z"
  ):
    step(optax_mtl.bloop(3, "b"), grads, losses=losses)


def test_without_a_main_gradient():
  """Nothing is taken away; the average starts when there is one, and stays."""
  grads = np.array([[[0.0, 0.0], [1.0, 1.0]]] * 4)
  grads[:, 0] = [[np.nan, 1.0], [0.0, 0.0], [2.0, 0.0], [5.0, 5.0]]
  active = np.array([[False, True], [True, True], [True, True], [False, True]])
  tx = optax_mtl.bloop(2, auxiliary_weight=0.5)
  updates, states = together({"": tx}, grads, active=active)[""]
  close(updates, [[0.5, 0.5], [0.5, 0.5], [2.0, 0.5], [0.0, 0.5]], atol=1e-15)
  assert states.main_average_set.tolist() == [False, True, True, True]
  np.testing.assert_array_equal(states.main_average[3], states.main_average[2])


def losses(params, x):
  z = jnp.tanh(x @ params["trunk"])
  return jnp.stack(
    [jnp.sum(z @ params["main"]) ** 2, jnp.sum(jnp.exp(z) @ params["aux"])]
  )


def test_every_source_and_the_heads():
  """The trunk is projected by its own products; heads get their gradients."""
  rng = np.random.default_rng(2)
  shapes = {"trunk": (3, 4), "main": (4,), "aux": (4,)}
  params = {k: jnp.asarray(rng.standard_normal(v)) for k, v in shapes.items()}
  x = jnp.asarray(rng.standard_normal((5, 3)))
  shared = {"trunk": True, "main": False, "aux": False}
  jacobian = jax.jacrev(losses)(params, x)
  main, auxiliary = jacobian["trunk"]
  along = jnp.sum(main * auxiliary) / jnp.sum(main * main)
  expected = {
    "trunk": main + 0.1 * (auxiliary - along * main),
    "main": jacobian["main"][0],
    "aux": jacobian["aux"][1],
  }
  tx = optax_mtl.bloop(2)

  def representation(params, x):
    return optax_mtl.value_and_representation_grads(
      lambda p, x: jnp.tanh(x @ p["trunk"]),
      lambda p, z, x: jnp.stack(
        [jnp.sum(z @ p["main"]) ** 2, jnp.sum(jnp.exp(z) @ p["aux"])]
      ),
      shared=shared,
    )(params, x)

  sources = [
    optax_mtl.value_and_task_grads(losses, source=source, shared=shared)
    for source in ("stacked", "implicit")
  ]
  for source in [*sources, representation]:

    @jax.jit
    def updates(params, x, source=source):
      _, grads = source(params, x)
      return tx.update(grads, tx.init(params), params)[0]

    found = updates(params, x)
    for name, wanted in expected.items():
      close(found[name], wanted, 1e-12)


def test_complex_params():
  """A complex gradient is projected as one of twice as many real numbers."""
  rng = np.random.default_rng(3)
  grads = rng.standard_normal((2, 3)) + 1j * rng.standard_normal((2, 3))
  tx = optax_mtl.bloop(2)
  updates, _ = tx.update(jnp.asarray(grads), tx.init(jnp.asarray(grads[0])))
  real = np.concatenate([grads.real, grads.imag], axis=1)
  expected, _ = step(tx, real)
  close(np.concatenate([updates.real, updates.imag]), expected, 1e-12)


def test_arguments():
  with pytest.raises(
    ValueError, match="main must be the index of one of the 2"
  ):
    optax_mtl.bloop(2, 2)
  with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\)"):
    optax_mtl.bloop(2, decay=1.0)
