"""The min-norm point with a cap, on gradients of small integers.

Drawn by hypothesis: zero rows, equal and opposite ones, all ranks, and caps of
which a whole number makes 1.
"""

import functools

import few_examples
import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from optax_mtl import solvers

COUNT, TASKS, PARAMS = 64, 3, 4
#: In float64. Solvers stop at 8 roundings, the sum of lengths is at most 4, and
#: by the bound in `min_norm` the squared norm is then off by 640 of them,
#: 1.4e-13; its root, where it is 0, by 4e-7.
TOL, ROOT = 1e-12, 1e-6
gradients = st.lists(
  st.lists(
    st.lists(st.integers(-2, 2), min_size=PARAMS, max_size=PARAMS),
    min_size=TASKS,
    max_size=TASKS,
  ),
  min_size=COUNT,
  max_size=COUNT,
)
caps = st.lists(
  st.sampled_from([1 / 3, 0.4, 0.5, 2 / 3, 0.9, 1.0]) | st.floats(1 / 3, 1.0),
  min_size=COUNT,
  max_size=COUNT,
)
# An example is a batch, and a batch is one call of a compiled program.
few = hypothesis.settings(few_examples.few, max_examples=6)


@functools.cache
def _program():
  def solve(gram, cap):
    return solvers.min_norm(gram, cap=cap), solvers.min_norm(gram)

  return jax.jit(jax.vmap(solve))


def solve(grads, cap):
  """Weights and certificates, with the cap and without."""
  with jax.enable_x64(True):
    grams = grads @ grads.transpose(0, 2, 1)
    return jax.tree.map(np.asarray, _program()(grams, cap))


def norms(grads, weights):
  return np.linalg.norm(np.einsum("nt,ntp->np", weights, grads), axis=1)


@few
@hypothesis.given(gradients, caps, st.integers(0, 1 << 30))
def test_feasible_and_nowhere_lower(grads, cap, seed):
  grads, cap = np.array(grads, float), np.array(cap)
  (weights, certificate), _ = solve(grads, cap)
  assert (weights >= 0).all() and (weights <= cap[:, None]).all()
  np.testing.assert_allclose(weights.sum(1), 1, rtol=TOL)
  assert certificate.converged.all()
  # From the mean, which is feasible, towards random points of the simplex.
  rng = np.random.default_rng(seed)
  points = rng.dirichlet(np.full(TASKS, 0.5), (200, COUNT))
  reach = (cap - 1 / TASKS) / (points.max(axis=2) - 1 / TASKS)
  reach = np.minimum(reach, 1)[..., None]
  points = 1 / TASKS + reach * (points - 1 / TASKS)
  found = np.square(norms(grads, weights))
  others = np.einsum("knt,ntp->knp", points, grads)
  assert (np.sum(others**2, axis=2) >= found - TOL).all()


@few
@hypothesis.given(gradients)
def test_from_mgda_to_the_mean(grads):
  grads = np.array(grads, float)
  (one, _), (free, _) = solve(grads, np.ones(COUNT))
  assert norms(grads, one) == pytest.approx(norms(grads, free), abs=ROOT)
  (mean, certificate), _ = solve(grads, np.full(COUNT, 1 / TASKS))
  np.testing.assert_allclose(mean, 1 / TASKS, rtol=TOL)
  assert certificate.converged.all()
