"""SDMGrad: MGDA's weights, pulled towards a direction of the user's."""

import hypothesis
import numpy as np
import pytest
from families import DELTA, assert_at_most, cases, drawn, integers, solved_on
from few_examples import few
from one_step import assert_same, gradients, run, run_batch, step
from references import REFERENCES

import optax_mtl

SMALL = {"learning_rate": 0.3, "num_steps": 300}


def sdmgrad(grads, second=None, **options):
  extra = {"second_grads": grads if second is None else second}
  return run_batch("sdmgrad", grads, dtype="float64", extra=extra, **options)


def test_without_a_pull_it_is_mgda():
  """With steps that converge, and one batch for both."""
  found = sdmgrad(gradients(3), pull=0.0, **SMALL)
  assert_same(found.updates, run("mgda", gradients(3)).updates, 1e-6)


def test_the_pulled_problem():
  """`w` minimises `‖g_w + λ ḡ‖`: MGDA of the gradients moved by `λ ḡ`."""
  grads = gradients(3)
  found = sdmgrad(grads, pull=0.7, **SMALL)
  moved = grads + 0.7 * grads.mean(axis=1, keepdims=True)
  assert_same(1.7 * found.updates, run("mgda", moved).updates, 1e-6)
  # Much of it is the mean.
  mean = sdmgrad(grads, pull=1e9, **SMALL).updates
  assert_same(mean, grads.mean(axis=1), 1e-8)


def test_a_preference_is_another_direction():
  grads = gradients(3)
  share = (3.0, 0.0, 1.0)
  found = sdmgrad(grads, pull=1e9, preference=share, **SMALL)
  assert_same(found.updates, (3 * grads[:, 0] + grads[:, 2]) / 4, 1e-8)
  with pytest.raises(ValueError, match="preference"):
    optax_mtl.sdmgrad(2, preference=[-1.0, 1.0])


def test_one_step_by_hand():
  """`G₁ G₂ᵀ = [[4, 0], [0, -1]]`, of which the roots' mean is 1."""
  tx = optax_mtl.sdmgrad(
    2, pull=0.0, num_steps=2, learning_rate=0.1, momentum=0.5
  )
  _, state = step(tx, np.diag([2.0, 1.0]), second_grads=np.diag([2.0, -1.0]))
  # Slopes (2, -.5): w = (.375, .625); then 4 · .375 + 1 and -.625 - .25.
  np.testing.assert_allclose(
    state.weights, [0.375 - 0.16875, 0.625 + 0.16875], rtol=1e-6
  )


def test_noise_alone_moves_nothing():
  """All of the diagonal negative: there is no scale, and `w` stays."""
  grads = np.eye(2)
  _, state = step(optax_mtl.sdmgrad(2), grads, second_grads=-grads)
  np.testing.assert_array_equal(state.weights, [0.5, 0.5])


def test_the_shares_go_on_from_where_they_were():
  tx = optax_mtl.sdmgrad(2, num_steps=1, learning_rate=0.1)
  grads = np.diag([1.0, 2.0])
  _, first = step(tx, grads, second_grads=grads)
  _, second = step(tx, grads, first, second_grads=grads)
  shares = [s.memory.sdmgrad_shares[0] for s in (first, second)]
  assert 0.5 < shares[0] < shares[1]


def test_errors():
  for name, value in {
    "pull": -1.0,
    "num_steps": 0,
    "learning_rate": 0.0,
    "momentum": 1.0,
  }.items():
    with pytest.raises(ValueError, match=f"{name} must lie in"):
      optax_mtl.sdmgrad(2, **{name: value})


def assert_three_steps(data, second, rate):
  """They are the paper's: each grows an error by `1 + 2 rate K` at most.

  `K` is the norm of the products as they are scaled, the velocity is at most
  twice the slope, and a projection grows nothing.
  """
  options = {"num_steps": 3, "learning_rate": rate, "pull": 0.5}
  found = solved_on(data, "sdmgrad", second, **options)
  num_tasks = data.grads.shape[1]
  wanted = [
    REFERENCES["sdmgrad"](
      num_tasks, g[None], {"second_grads": s[None]}, **options
    )
    for g, s in zip(data.grads, second, strict=True)
  ]
  error = np.linalg.norm(found.weights - np.concatenate(wanted), axis=1)
  cross = np.einsum("nip,njp->nij", data.grads, second)
  diagonal = np.maximum(np.einsum("nii->ni", cross), 0)
  scale = np.mean(np.sqrt(diagonal), axis=1)
  norm = np.linalg.norm(cross, axis=(1, 2))
  norm = norm / np.where(scale > 0, scale, np.inf) ** 2
  assert_at_most(error, DELTA * (1 + 2 * rate * norm) ** 3, data.names)
  return found


@pytest.mark.parametrize("num_tasks", [1, 3, 10])
def test_every_family(num_tasks):
  """One batch for both: of two the scale itself may be rounding."""
  data = cases(num_tasks)
  found = assert_three_steps(data, data.grads, 1 / num_tasks**2)
  moved = abs(found.weights - 1 / num_tasks).max(axis=1) > 0.01
  assert num_tasks == 1 or moved.mean() > 0.2


@few
@hypothesis.given(integers)
def test_small_integers(grads):
  """Whose products are exact, negative on the diagonal and zero."""
  data = drawn(grads)
  assert_three_steps(data, np.roll(data.grads, 1, axis=0), 0.04)
