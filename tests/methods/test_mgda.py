"""MGDA: the shortest vector in the gradients' hull descends every task."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import (
  DELTA,
  assert_at_most,
  cases,
  drawn,
  integers,
  sizes,
  solved,
  solved_on,
)
from few_examples import few
from one_step import (
  ORTHOGONAL,
  assert_oracles,
  assert_same,
  close,
  gradients,
  run,
  step,
)

import optax_mtl


def test_oracles():
  assert_oracles(
    "mgda",
    [
      ({}, ORTHOGONAL, np.array([36, 18, 12]) / 49),
      ({}, [[1, 0], [0, 2]], [0.8, 0.4]),
      ({}, [[1, 0], [5, 0]], [1, 0]),
      ({}, [[1, 0], [-1, 0]], [0, 0]),
      ({}, [[3, 4]], [3, 4]),
      # One task that is done stops them all.
      ({}, [[0, 0], [1, 0], [0, 2]], [0, 0]),
    ],
  )
  weights = run("mgda", [ORTHOGONAL]).weights
  assert_same(weights, np.array([[36, 9, 4]]) / 49, 1e-12)
  # A library returns one of length 0.2651.
  found = run("mgda", [[[3, 3], [-3, 2], [2, -1]]])
  # Half a unit of the last digit known.
  assert abs(np.linalg.norm(found.updates) - 0.17149859) < 5e-9


def test_two_tasks_are_the_closed_form():
  """α_1 = clip((g_2 - g_1) · g_2 / |g_1 - g_2|², 0, 1)."""
  grads = gradients(2) * [[1.0], [2.0]]
  first, second = grads[:, 0], grads[:, 1]
  gap = second - first
  alpha = np.clip(np.sum(gap * second, 1) / np.sum(gap**2, 1), 0, 1)
  assert ((alpha > 0) & (alpha < 1)).any() and (alpha == 1).any()
  expected = np.stack([alpha, 1 - alpha], axis=1)
  assert_same(run("mgda", grads).weights, expected, 1e-12)


def test_an_absent_task_takes_no_part():
  grads, mask = gradients(3), np.array([True, False, True])
  found = run("mgda", grads, active=mask)
  assert (found.weights[:, 1] == 0).all()
  assert_same(found.weights.sum(axis=1, keepdims=True), np.ones((64, 1)))
  assert_same(found.updates, run("mgda", grads[:, mask]).updates)


@sizes
def test_it_descends_every_task_by_at_least_its_square(num_tasks):
  """(Mα)_i >= αᵀMα, equal where α_i > 0, with α on the simplex."""
  data, found = cases(num_tasks), solved("mgda", num_tasks)
  assert found.converged.all()
  total = np.abs(found.weights.sum(axis=1) - 1)
  assert (found.weights >= 0).all()
  assert (total <= 2 * num_tasks * np.finfo(np.float32).eps).all()
  update = np.einsum("nt,ntp->np", found.weights, data.grads)
  square = np.sum(update**2, axis=1, keepdims=True)
  gap = square - data.norms * data.products(found.weights)
  size = data.size(found.weights)[:, None]
  # A product with a task is known to its own length, the square to the size.
  bound = DELTA * size * (data.norms + size)
  assert_at_most(gap, bound, data.names)
  used = found.weights > 0
  assert_at_most(np.where(used, -gap, 0) * found.weights, bound, data.names)


# These are run without jit: two tasks, so that all share each operation.
def test_normalized_descends_where_the_authors_code_ascends():
  grads = np.array([[10.0, 0.0], [-1.0, 1.0]])
  updates, state = step(optax_mtl.mgda(2, "l2"), grads)
  assert (grads @ np.asarray(updates) > 0).all()
  # The problem on g/c, and α/c on g: unit gradients have equal weights.
  close(state.weights, 0.5 / np.linalg.norm(grads, axis=1), 1e-5)
  # Theirs, α on g, is equal weighting.
  authors = np.array([0.5, 0.5]) @ grads
  assert (grads @ authors)[1] == -4


@pytest.mark.parametrize("normalize", ["loss", "loss+"])
def test_normalized_by_losses(normalize):
  grads, losses = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([2.0, 0.5])
  norms = np.linalg.norm(grads, axis=1)
  divisor = losses * (norms if normalize == "loss+" else 1)
  scaled = grads / divisor[:, None]
  squares = np.sum(scaled**2, axis=1)
  alpha = squares[::-1] / squares.sum()
  updates, state = step(optax_mtl.mgda(2, normalize), grads, losses=losses)
  close(state.weights, alpha / divisor, 1e-5)
  close(updates, alpha @ scaled, 1e-5)


def test_a_negative_loss_cannot_normalize():
  """An error where its value is known, and NaN in a jitted function."""
  tx = optax_mtl.mgda(2, "loss")
  with pytest.raises(ValueError, match=r"normalize='loss'.*-1"):
    step(tx, np.eye(2), losses=[1.0, -1.0])
  weights = jax.jit(
    lambda losses: step(tx, np.eye(2), losses=losses)[1].weights
  )
  assert np.isnan(weights(jnp.array([1.0, -1.0]))).any()


def test_a_cap():
  """From MGDA to the mean, and 49/52 in between."""
  grads = np.array(ORTHOGONAL, float)
  caps = np.array([1.0, 0.5, 1 / 3])
  found = run("mgda", [grads] * 3, cap=caps)
  weights = [
    [36 / 49, 9 / 49, 4 / 49],
    [1 / 2, 9 / 26, 2 / 13],
    [1 / 3] * 3,
  ]
  close(found.weights, weights, 1e-12)
  assert np.asarray(found.memory.converged).all()
  assert (found.weights.max(axis=1) <= caps).all()
  close(np.sum(found.updates[1] ** 2), 49 / 52, 1e-12)
  # Two left of three cannot weigh less than 1/2 each; with a zero gradient, as
  # much as may be is on that.
  found = run("mgda", [grads], np.array([True, False, True]), cap=0.4)
  close(found.weights, [[0.5, 0, 0.5]], 1e-12)
  grads[0] = 0
  # Of the other half 9/13 and 4/13.
  found = run("mgda", [grads], cap=0.5)
  close(found.weights, [[1 / 2, 9 / 26, 2 / 13]], 1e-12)
  _, state = step(optax_mtl.mgda(3, "l2", cap=0.4), np.diag([1.0, 2.0, 4.0]))
  close(state.weights, np.array([1, 1 / 2, 1 / 4]) / 3, 1e-6)


def assert_capped(data, cap):
  """Weights in [0, cap] of sum 1, of which none are shorter.

  By the gap of a linear function: no weights in these bounds make a shorter
  update than by what the least of `Σ v_i g_i · d` is below `‖d‖²`.
  """
  found = solved_on(data, "mgda", cap=cap)
  count, num_tasks = data.norms.shape
  eps = np.finfo(np.float32).eps
  cap = max(float(np.float32(cap)), 1 / num_tasks)
  assert (found.weights >= 0).all()
  assert (found.weights <= cap * (1 + eps)).all()
  total = abs(found.weights.sum(axis=1) - 1)
  assert (total <= 2 * num_tasks * eps).all()
  assert found.converged[data.without("ill_conditioned", "scaled_1e6")].all()
  gains = data.norms * data.products(found.weights)
  least = np.zeros((count, num_tasks))
  share = np.clip(1 - cap * np.arange(num_tasks), 0, cap)
  order = np.argsort(gains, axis=1)
  np.put_along_axis(least, order, np.tile(share, (count, 1)), axis=1)
  gap = np.sum((found.weights - least) * gains, axis=1)
  size = data.size(found.weights)
  bound = DELTA * size * (size + data.size(least))
  assert_at_most(gap, bound, data.names, found.converged)


@pytest.mark.parametrize("cap", [0.1, 0.4, 0.75])
def test_no_weights_below_the_cap_do_better(cap):
  for num_tasks in (1, 2, 3, 10):
    assert_capped(cases(num_tasks), cap)


@few
@hypothesis.given(integers)
def test_small_integers_with_a_cap(grads):
  for cap in (0.2, 0.25, 0.5, 0.6):
    assert_capped(drawn(grads), cap)


def test_caps_that_cannot_be():
  optax_mtl.mgda(49, cap=1 / 49)
  with pytest.raises(ValueError, match="cap must be at least 1/3"):
    optax_mtl.mgda(3, cap=0.3)
  with pytest.raises(ValueError, match=r"cap must lie in \[0, 1\]"):
    optax_mtl.mgda(3, cap=2.0)
  with pytest.raises(ValueError, match="cap= goes with solver='wolfe'"):
    optax_mtl.mgda(3, cap=0.5, solver="vanilla")


def test_drop_stationary():
  """Relative to the largest norm, so that small gradients do not all leave."""
  grads = np.array([[1e-6, 0.0], [0.0, 2.0]])
  for scale in (1, 1e-12):
    for share, weights in ((1e-3, [0.0, 1.0]), (1e-8, [1.0, 0.0])):
      tx = optax_mtl.mgda(2, drop_stationary=share)
      _, state = step(tx, scale * grads)
      close(state.weights, weights, 1e-5, 1e-6)


def test_the_upper_bound_is_no_descent_but_stationarity():
  """The paper's theorem fails on its word "descent", and holds on the rest."""
  jacobian = jnp.array([[3.0, 0.0], [-1.0, 0.5]])  # dZ / dθ
  tx, params = optax_mtl.mgda(2), jnp.zeros(2)

  @jax.jit
  def update(second):
    grads_of = optax_mtl.value_and_representation_grads(
      lambda p: jacobian @ p, lambda p, z: jnp.stack([z[0], second @ z])
    )
    return tx.update(grads_of(params)[1], tx.init(params), params)

  updates, state = update(jnp.array([0.0, 1.0]))
  close(state.weights, [0.5, 0.5])
  close(jacobian @ updates, [3.0, -0.875])
  # Stationary at the representation is stationary at the params.
  updates, _ = update(jnp.array([-1.0, 0.0]))
  close(updates, [0.0, 0.0], atol=1e-6)
