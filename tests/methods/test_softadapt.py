"""SoftAdapt: its slopes, its variants, and its edges."""

import jax
import numpy as np
import pytest
from one_step import close, walk

import optax_mtl
from benchmarks.reference.methods import REFERENCES
from optax_mtl.methods.losses.softadapt import backward_differences


def run(losses, beta=0.1, active=None, **options):
  """The states of one run, [N, ...]."""
  losses = np.asarray(losses, np.float32)
  tx = optax_mtl.softadapt(losses.shape[1], beta, **options)
  active = np.ones(losses.shape, bool) if active is None else active
  return walk(tx, np.eye(losses.shape[1]), losses=losses, active=active)[1]


def softmax(logits):
  return len(logits) * np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 8])
def test_differences_are_exact_for_polynomials(order):
  """Of a degree up to the order; the well-known ones are among them."""
  coefficients = backward_differences(order)
  assert coefficients.sum() == pytest.approx(0, abs=1e-14)
  back = -np.arange(order + 1.0)
  for degree in range(1, order + 1):
    # The slope at 0 of `x^degree`; powers of 8, times coefficients up to 19.
    want = 1.0 if degree == 1 else 0.0
    assert coefficients @ back**degree == pytest.approx(want, abs=1e-6)
  if order == 2:
    np.testing.assert_allclose(coefficients, [1.5, -2, 0.5])
  if order == 4:
    np.testing.assert_allclose(coefficients, [25 / 12, -4, 3, -4 / 3, 1 / 4])


#: Five epochs of the authors' example, whose slopes at the last are exact.
AUTHORS = np.array(
  [
    [1.0, 2.0, 3.0, 4.0, 5.0],
    [150.0, 100.0, 50.0, 10.0, 0.1],
    [1500.0, 1000.0, 500.0, 100.0, 1.0],
  ]
).T


@pytest.mark.parametrize("variant", ["original", "normalized", "loss_weighted"])
def test_variants(variant):
  """Ones until there are five points, then the reference's weights."""
  states = run(AUTHORS, variant=variant)
  want = REFERENCES["softadapt"](
    3, np.zeros((5, 3, 3)), {"losses": AUTHORS}, variant=variant
  )
  close(states.weights[:4], np.ones((4, 3)))
  # The slopes reach 600 and are sums of terms of 6000: β times their rounding.
  close(states.weights[4], want[4], rtol=5e-4, atol=1e-25)
  close(states.weights.sum(axis=1), 3 * np.ones(5))
  slopes = AUTHORS.T[:, ::-1] @ backward_differences(4)
  assert slopes[0] == pytest.approx(1.0)
  if variant == "normalized":
    ratio = want[4][0] / want[4][1]
    scale = np.abs(slopes).sum()
    assert ratio == pytest.approx(np.exp(0.1 * (slopes[0] - slopes[1]) / scale))


def test_sign():
  """What rises weighs more; with a negative `β`, less; with 0, the same."""
  losses = [[2.0, 2.0, 2.0], [3.0, 2.0, 1.0]]
  slopes = np.array([1.0, 0.0, -1.0])
  for beta in (1.0, -1.0, 0.0):
    close(run(losses, beta, order=1).weights[-1], softmax(beta * slopes))
  # Their sum is zero, that of their magnitudes 2.
  normalized = run(losses, 1.0, order=1, variant="normalized")
  close(normalized.weights[-1], softmax(slopes / 2))


def test_edges():
  """No slopes, no losses, and a softmax that would overflow."""
  flat = np.full((2, 3), 2.0)
  close(run(flat, order=1, variant="normalized").weights[-1], np.ones(3))
  for losses, want in (
    (np.zeros((2, 3)), [1.0, 1.0, 1.0]),
    # A loss that is not positive weighs nothing in this variant.
    ([[1.0, 0.0, -1.0], [1.0, 0.0, -1.0]], [3.0, 0.0, 0.0]),
    ([[1.0, 1.0, 1.0], [1e30, 1.0, 1.0]], [3.0, 0.0, 0.0]),
  ):
    found = run(losses, order=1, variant="loss_weighted")
    close(found.weights[-1], want)


def test_points_are_averages_over_an_epoch():
  """Of the steps in which a task had a loss; a NaN is none."""
  losses = [[1.0, 4.0], [3.0, np.nan], [5.0, 2.0], [5.0, 2.0]]
  active = np.ones((4, 2), bool)
  active[2, 0] = False
  states = run(losses, 1.0, active=active, order=1, steps_per_epoch=2)
  close(states.weights[:3, 1], np.ones(3))
  close(states.memory.loss_points[-1], [[5.0, 2.0], [2.0, 4.0]])
  close(states.weights[-1], softmax([3.0, -2.0]))


def test_order_is_static():
  with pytest.raises(TypeError, match="order must be a Python int.*static_arg"):
    jax.eval_shape(
      lambda order: optax_mtl.softadapt(2, order=order).init({}), 1
    )
  with pytest.raises(ValueError, match=r"order must lie in \[1, 8\]"):
    optax_mtl.softadapt(2, order=0)
