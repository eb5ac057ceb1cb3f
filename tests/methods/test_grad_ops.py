"""GradOPS: what conflicts leaves the span of all others, and hurts nobody."""

import numpy as np
import pytest
from families import DELTA, DEPENDENT, assert_at_most, cases, solved
from one_step import (
  CONFLICT,
  ORTHOGONAL,
  assert_oracles,
  assert_same,
  gradients,
  run,
)
from references import REFERENCES

import optax_mtl
from optax_mtl import solvers


def test_oracles():
  assert_oracles(
    "grad_ops",
    [
      ({}, CONFLICT, [0.5, 1.5]),
      ({}, ORTHOGONAL, [1, 2, 3]),
      ({}, [[1, 0], [0, 0]], [1, 0]),
      # The first two conflict, and leave the span of the third too.
      ({}, [[1, 0, 1], [-2, 1, 1], [0, 0, 1]], [0.2, 1.4, 1]),
      # Three in a plane: of those in conflict nothing is left.
      ({}, [[1, 0], [-1, 1], [1, 1]], [1, 1]),
      ({}, [[1, 0], [-2, 0]], [0, 0]),
      # Without conflict nothing changes, dependent or not.
      ({}, [[1, 0], [1, 0], [1, 1]], [3, 1]),
      # r ∝ (1, 1, 1) of orthogonal ones: α does nothing.
      ({"alpha": -3.0}, ORTHOGONAL, [1, 2, 3]),
      # G' = (3, 0), r ∝ (3/1, 3/2) and weights of sum 2.
      ({"alpha": 1.0}, [[1, 0], [2, 0]], [8 / 3, 0]),
      ({"alpha": -1.0}, [[1, 0], [2, 0]], [10 / 3, 0]),
    ],
  )


def test_two_tasks_are_pcgrad():
  grads = gradients(2)
  assert_same(run("grad_ops", grads).updates, run("pcgrad", grads).updates)


@pytest.mark.parametrize("alpha", [-2.0, 1.0])
def test_against_least_squares(alpha):
  grads = gradients(3)
  expected = REFERENCES["grad_ops"](3, grads, {}, alpha=alpha)
  assert_same(run("grad_ops", grads, alpha=alpha).weights, expected, 1e-8)
  # The weights trade what tasks get for what others get.
  plain, traded = run("grad_ops", grads), run("grad_ops", grads, alpha=alpha)
  norms = np.sum(grads**2, axis=2)
  gains = np.einsum("ntp,np->nt", grads, plain.updates) / norms
  after = np.einsum("ntp,np->nt", grads, traded.updates) / norms
  first, last = gains.argmin(axis=1), gains.argmax(axis=1)
  rows = np.arange(len(grads))
  ratio = (after / gains)[rows, last] / (after / gains)[rows, first]
  assert (np.sign(alpha) * np.log(ratio) > 0).mean() > 0.9


def test_no_order_of_the_tasks_matters():
  grads = gradients(3)
  turned = run("grad_ops", grads[:, [2, 0, 1]])
  assert_same(turned.updates, run("grad_ops", grads).updates)


def test_errors():
  with pytest.raises(TypeError, match="alpha must be a real number"):
    optax_mtl.grad_ops(2, alpha="1")


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_it_hurts_no_task(num_tasks):
  """The paper's property, on every family.

  The unit is a rounding of the Gram matrix between unit gradients: where these
  are nearly dependent, the coefficients are large, and so is the size.
  """
  data, found = cases(num_tasks), solved("grad_ops", num_tasks)
  products = data.products(found.weights)
  bound = DELTA * data.size(found.weights)
  assert_at_most(-products, bound, data.names)
  assert found.converged[data.without("ill_conditioned")].all()
  some = data.without(*DEPENDENT, "all_zero", "zero_rows")
  assert (products[some] > 0).any()


def test_parts_of_dependent_gradients():
  """A dependence takes all of its members, and nothing of the others."""
  rng = np.random.default_rng(0)
  for scale in (1e-15, 1.0, 1e15):
    grads = rng.standard_normal((5, 9))
    grads[3] = 2 * grads[0] - grads[1]
    grads[4] *= scale
    gram = (grads @ grads.T).astype(np.float32)
    parts, certificate = solvers.orthogonal_parts(gram)
    assert certificate.converged
    parts = np.asarray(parts, np.float64)
    assert (parts[[0, 1, 3]] == 0).all()
    units = grads / np.linalg.norm(grads, axis=1, keepdims=True)
    for i in (2, 4):
      others = np.arange(5) != i
      span = np.linalg.lstsq(units[others].T, units[i], rcond=1e-10)[0]
      left = units[i] - span @ units[others]
      # A condition number of 10 to 100 of the cosines.
      found = parts[i] @ grads / np.linalg.norm(grads[i])
      assert np.linalg.norm(found - left) <= 1e-4
