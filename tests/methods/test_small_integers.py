"""What papers claim of an update, on gradients of small integers.

Drawn by hypothesis: zero rows, equal and opposite ones, all ranks, and products
that are zero exactly, where it is the sign of a product that decides.
"""

import hypothesis
import numpy as np
from few_examples import few
from hypothesis import strategies as st
from one_step import run
from references import REFERENCES

from benchmarks.reference.methods.pcd import nearest_with_gains
from optax_mtl.solvers import Status

#: In float64, and all numbers are of size 1 to 10: solvers stop at 16 to 64
#: roundings, and the smallest eigenvalue of such a matrix's cosines that is not
#: zero is above 1e-4.
TOL = 1e-9
matrices = st.lists(
  st.lists(
    st.lists(st.integers(-2, 2), min_size=4, max_size=4),
    min_size=3,
    max_size=3,
  ),
  min_size=64,
  max_size=64,
)


def products(grads, updates):
  return np.einsum("ntp,np->nt", grads, updates)


@few
@hypothesis.given(matrices)
def test_grad_ops_hurts_no_task(grads):
  grads = np.array(grads, float)
  found = run("grad_ops", grads)
  assert (products(grads, found.updates) >= -TOL).all()
  assert np.asarray(found.memory.converged).all()


@few
@hypothesis.given(matrices)
def test_pcd_gives_each_its_share_or_says_that_none_can(grads):
  grads = np.array(grads, float)
  found = run("pcd", grads, tau=0.5)
  norms = np.linalg.norm(grads, axis=2)
  units = grads / np.where(norms > 0, norms, 1)[..., None]
  status = np.asarray(found.memory.certificate.status)
  assert np.isin(status, [Status.SOLVED, Status.STATIONARY]).all()
  for i, unit in enumerate(units):
    others = units[i, 1:][norms[i, 1:] > 0]
    multipliers = nearest_with_gains(unit[0], others, np.full(len(others), 0.5))
    assert (multipliers is None) == (status[i] == Status.STATIONARY)
    expected = unit[0]
    if multipliers is not None:
      expected = expected + multipliers @ others
    length = np.linalg.norm(expected)
    expected = norms[i, 0] * expected / (length if length > TOL else 1)
    assert np.linalg.norm(found.updates[i] - expected) <= 1e3 * TOL


@few
@hypothesis.given(matrices)
def test_dcgd_hurts_neither_group(grads):
  grads = np.array(grads, float)
  found = run("dcgd", grads)
  pair = np.stack([grads[:, 0], grads[:, 1] + grads[:, 2]], axis=1)
  assert (products(pair, found.updates) >= -TOL).all()


@few
@hypothesis.given(matrices)
def test_conic_grad_stays_in_the_cone_and_helps_the_worst(grads):
  grads = np.array(grads, float)
  found = run("conic_grad", grads)
  mean = grads.mean(axis=1)
  length = np.linalg.norm(mean, axis=1)
  solved = np.asarray(found.memory.converged)
  own = np.linalg.norm(found.updates, axis=1)
  assert (abs(own - length)[solved] <= 1e3 * TOL).all()
  cosine = np.sum(found.updates * mean, axis=1)
  assert (cosine >= 0.75 * length * own - TOL)[solved].all()
  # Nor does a task without gradient gain or lose.
  there = grads.any(axis=2)
  worst = np.where(there, products(grads, found.updates), np.inf).min(axis=1)
  plain = np.where(there, products(grads, mean), np.inf).min(axis=1)
  assert (worst >= plain - TOL)[there.any(axis=1)].all()
  # Of full rank the optimum is that of all supports.
  full = np.linalg.matrix_rank(grads) == 3
  for g, update in zip(
    grads[full & solved], found.updates[full & solved], strict=True
  ):
    best = REFERENCES["conic_grad"](3, g[None], {})[0] @ g
    assert abs(np.min(g @ best) - np.min(g @ update)) <= 1e3 * TOL
