"""DCGD: its three variants are other methods at T = 2, and hurt neither."""

import hypothesis
import numpy as np
import pytest
from families import DELTA, assert_at_most, cases, drawn, integers, solved_on
from few_examples import few
from one_step import (
  assert_oracles,
  assert_same,
  gradients,
  run,
  step,
)

import optax_mtl

CONFLICT = [[4, 0], [-1, 1]]  # Their sum raises the second loss.


def test_oracles():
  diagonal = np.sqrt(0.5)
  half = (4 + 2 * diagonal) / 2
  assert_oracles(
    "dcgd",
    [
      ({}, CONFLICT, [half * (1 - diagonal), half * diagonal]),
      # Half of (2, 2) and (0, 1); and the sum (3, 1) less its part along
      # (-1, 1).
      ({"variant": "average"}, CONFLICT, [1, 1.5]),
      ({"variant": "projection"}, CONFLICT, [2, 2]),
      # They conflict, but the sum (1, 2) raises neither.
      ({"variant": "average"}, [[2, 0], [-1, 2]], [1, 2]),
      ({"variant": "projection"}, [[2, 0], [-1, 2]], [1, 2]),
      # Opposite ones of any length.
      ({}, [[1, 0], [-3, 0]], [0, 0]),
      ({"variant": "projection"}, [[1, 0], [-3, 0]], [0, 0]),
      # Without a gradient the other is all.
      ({}, [[0, 0], [-3, 1]], [-3, 1]),
      # All but the residual are one group, whose sum is (0, 3).
      ({}, [[1, 0], [1, 2], [-1, 1]], [2, 2]),
      ({"residual": 1}, [[1, 2], [1, 0], [-1, 1]], [2, 2]),
      # Two equations.
      ({"residual": (0, 2)}, [[1, 2], [1, 0], [-1, 1]], [2, 2]),
      # A group whose members cancel has no gradient.
      ({}, [[1, 0], [1, 2], [-1, -2]], [1, 0]),
    ],
  )


def test_two_tasks():
  """ConFIG, half of PCGrad, and the sum's projection on the dual cone."""
  grads = gradients(2)
  center = run("dcgd", grads).updates
  assert_same(center, run("conflict_free", grads).updates)
  total = grads.sum(axis=1)
  hurt = (np.einsum("ntp,np->nt", grads, total) < 0).any(axis=1)
  assert 0 < hurt.sum() < len(hurt)
  average = run("dcgd", grads, variant="average").updates
  assert_same(average[hurt], run("pcgrad", grads).updates[hurt] / 2)
  assert_same(average[~hurt], total[~hurt])
  projection = run("dcgd", grads, variant="projection").updates
  assert_same(projection, 2 * run("dual_proj", grads).updates)


def test_an_absent_group():
  """The update is the other's; an absent member leaves its group's sum."""
  grads = gradients(3)
  found = run("dcgd", grads, active=np.array([False, True, True]))
  np.testing.assert_array_equal(found.weights, [[0, 1, 1]] * 64)
  found = run("dcgd", grads, active=np.array([True, True, False]))
  assert_same(found.updates, run("dcgd", grads[:, :2]).updates)


def test_by_name():
  losses = {n: np.ones(()) for n in ("bc", "pde")}
  tx = optax_mtl.dcgd(2, residual=["pde"])
  updates, _ = step(tx, [[3.0, 0.0], [0.0, 1.0]], losses=losses)
  np.testing.assert_allclose(updates, [2, 2], rtol=1e-6)
  with pytest.raises(ValueError, match="residual='ic', but the tasks are bc"):
    step(optax_mtl.dcgd(2, residual="ic"), np.eye(2), losses=losses)


def test_errors():
  with pytest.raises(ValueError, match="variant must be one of 'center'"):
    optax_mtl.dcgd(2, "centre")
  with pytest.raises(ValueError, match="residual must be the index of one"):
    optax_mtl.dcgd(2, residual=(0, 2))
  with pytest.raises(TypeError, match="residual must be the index of a"):
    optax_mtl.dcgd(2, residual=0.5)


every_variant = pytest.mark.parametrize(
  "variant", ["center", "average", "projection"]
)


def assert_neither_is_hurt(data, variant):
  """The paper's property, of the residual and the sum of the others."""
  found = solved_on(data, "dcgd", variant=variant)
  weights, norms = found.weights, data.norms
  # Members of a group weigh the same.
  assert (weights[:, 1:] == weights[:, 1:2]).all()
  pair = np.stack([data.grads[:, 0], data.grads[:, 1:].sum(axis=1)], axis=1)
  update = np.einsum("nt,ntp->np", weights, data.grads)
  products = np.einsum("nkp,np->nk", pair, update)
  lengths = np.stack([norms[:, 0], norms[:, 1:].sum(axis=1)], axis=1)
  bound = DELTA * data.size(weights)[:, None] * lengths
  assert_at_most(-products, bound, data.names)


@every_variant
def test_neither_group_is_hurt(variant):
  for num_tasks in (2, 3, 10):
    assert_neither_is_hurt(cases(num_tasks), variant)


@every_variant
@few
@hypothesis.given(integers)
def test_small_integers(variant, grads):
  assert_neither_is_hurt(drawn(grads), variant)


@pytest.mark.parametrize(
  "num_tasks, residual", [(2, [0, 1]), (3, []), (3, [0, 0])]
)
def test_two_groups_that_are_none(num_tasks, residual):
  with pytest.raises(ValueError, match="residual must name between 1 and"):
    optax_mtl.dcgd(num_tasks, residual=residual)
