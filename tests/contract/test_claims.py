"""What methods claim about themselves, on members of hard families.

The claims are those of `MethodInfo.claims`; the matrices are forty of each of
the families that the solvers are tested on, all in one program a method.
"""

import functools
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_mtl._dtypes import solver_dtype

NUM_TASKS, NUM_PARAMS, EACH = 5, 12, 40
EPS = np.finfo(np.float32).eps

#: Rows of one size: others times 1e±15 leave float32's range.
SCALABLE = ["iid", "conflicting", "aligned", "duplicate_rows", "rank_deficient"]


class Drawn(NamedTuple):
  """Gradients as float32 sees them, and extra args; all with `N` in front."""

  grads: np.ndarray
  second: np.ndarray
  extra: dict[str, np.ndarray]


@functools.cache
def families():
  """The family of each matrix, and the matrices."""
  rng = np.random.default_rng(0)
  names, grads, second = [], [], []
  for name, family in harness.FAMILIES.items():
    for _ in range(EACH):
      names.append(name)
      grads.append(family(rng, NUM_TASKS, NUM_PARAMS))
      second.append(family(rng, NUM_TASKS, NUM_PARAMS))
  shape = (len(names), NUM_TASKS)
  extra = {
    "losses": rng.uniform(0.1, 3.0, shape),
    "kpis": rng.uniform(0.05, 0.95, shape),
    "preference": rng.uniform(0.1, 1.0, shape),
    "previous_losses": rng.uniform(0.1, 3.0, shape),
    "traces": rng.uniform(0.1, 3.0, shape),
  }
  drawn = Drawn(np.stack(grads), np.stack(second), extra)
  return np.array(names), jax.tree.map(np.float32, drawn)


@functools.cache
def compiled(name):
  tx = harness.build(name, tuple(range(NUM_TASKS)))

  def one(drawn):
    extra = {k: v.astype(solver_dtype()) for k, v in drawn.extra.items()}
    updates, state = tx.update(
      drawn.grads,
      tx.init(drawn.grads[0]),
      second_grads=drawn.second,
      **extra,
    )
    return updates, state.weights

  return jax.jit(jax.vmap(one))


def update(name, drawn):
  """Updates [N, P] and weights [N, T], float64."""
  outputs = compiled(name)(jax.tree.map(jnp.asarray, drawn))
  return tuple(np.asarray(output, np.float64) for output in outputs)


@functools.cache
def base(name):
  return update(name, families()[1])


def lengths_and_size(grads, weights):
  """Each row's length, and the length of what the update is summed from."""
  lengths = np.linalg.norm(np.asarray(grads, np.float64), axis=2)
  return lengths, np.sum(np.abs(weights) * lengths, axis=1)


def claiming(claim):
  names = harness.claiming(claim, harness.WEIGHING)
  return pytest.mark.parametrize("name", names)


def assert_all(holds, what):
  """Says which families fail."""
  names = families()[0]
  assert holds.all(), f"{what} fails on {sorted(set(names[~holds]))}"


@pytest.mark.parametrize("name", harness.WEIGHING)
def test_finite(name):
  updates, weights = base(name)
  assert_all(np.isfinite(updates).all(1) & np.isfinite(weights).all(1), name)


@claiming("descends")
def test_descends(name):
  """G d >= 0, up to the rounding of the Gram matrix: eps n_i n_j an entry.

  So a product g_i·d is known to T eps n_i Σ|w_j| n_j in float32, and a solver
  that stops at a few eps may be off by some times that.
  """
  (_, drawn), (updates, weights) = families(), base(name)
  lengths, size = lengths_and_size(drawn.grads, weights)
  products = np.einsum("ntp,np->nt", drawn.grads.astype(np.float64), updates)
  bound = 16 * NUM_TASKS * EPS * lengths * size[:, None]
  assert_all((products >= -bound).all(1), "descent")


@claiming("simplex")
def test_simplex(name):
  _, weights = base(name)
  assert_all((weights >= 0).all(1), "w >= 0")
  # A sum of T numbers, each divided by their sum.
  assert_all(abs(weights.sum(1) - 1) <= 2 * NUM_TASKS * EPS, "sum of 1")


@claiming("positive_weights")
def test_positive_weights(name):
  assert_all((base(name)[1] >= 0).all(1), "w >= 0")


@claiming("scale_equivariant")
def test_scale_equivariant(name):
  """From 1e-15 to 1e15, where the scale itself rounds the gradients.

  Relative to what the update is summed from. Where gradients all but cancel the
  update moves by the square root of a rounding of its square.
  """
  names, drawn = families()
  updates, weights = base(name)
  exponents = np.random.default_rng(1).uniform(-15, 15, len(names))
  exponents = np.where(np.isin(names, SCALABLE), exponents, 0)
  scales = 10.0**exponents

  def scale(leaf):
    return (leaf * scales[:, None, None]).astype(np.float32)

  scaled, _ = update(
    name,
    drawn._replace(grads=scale(drawn.grads), second=scale(drawn.second)),
  )
  error = np.linalg.norm(scaled / scales[:, None] - updates, axis=1)
  _, size = lengths_and_size(drawn.grads, weights)
  assert_all(error <= 16 * np.sqrt(EPS) * size, "scale equivariance")


@claiming("scale_equivariant")
def test_beyond_what_squares_can_hold(name):
  """At 1e25 an update is right, or it shows: never finite and another one.

  The squares of gradients of 1e20 leave float32's range. Below, at 1e-25, they
  vanish, and the tasks look as if they had no gradient.
  """
  names, drawn = families()
  updates, weights = base(name)
  some = np.isin(names, SCALABLE)
  factor = np.where(some, 1e25, 1)[:, None, None]
  huge = drawn._replace(
    grads=np.float32(drawn.grads * factor),
    second=np.float32(drawn.second * factor),
  )
  scaled, _ = update(name, huge)
  error = np.linalg.norm(scaled / factor[:, :, 0] - updates, axis=1)
  _, size = lengths_and_size(drawn.grads, weights)
  shows = ~np.isfinite(scaled).all(1)
  assert_all(shows | (error <= 16 * np.sqrt(EPS) * size) | ~some, "1e25")
  tiny = drawn._replace(
    grads=np.float32(drawn.grads / factor),
    second=np.float32(drawn.second / factor),
  )
  assert_all(np.isfinite(update(name, tiny)[0]).all(1), "1e-25")


def rank_is_open(grads):
  """Whether rounding decides the rank of the cosines [N, T, T], bools [N].

  What is below `T` roundings of the largest eigenvalue counts as zero in a
  pseudo-inverse. The entries' own rounding, half of one each, moves an
  eigenvalue by half of that.
  """
  grads = np.float64(grads)
  lengths = np.linalg.norm(grads, axis=2, keepdims=True)
  units = np.divide(grads, lengths, where=lengths > 0, out=np.zeros_like(grads))
  values = np.linalg.eigvalsh(units @ units.transpose(0, 2, 1))
  largest = np.maximum(values.max(axis=1, keepdims=True), 1)
  roundings = values / (NUM_TASKS * EPS * largest)
  return ((roundings > 0.5) & (roundings < 1.5)).any(axis=1)


@claiming("permutation_equivariant")
def test_permutation_equivariant(name):
  """The update does not change; among dependent rows the weights may."""
  names, drawn = families()
  updates, weights = base(name)
  rng = np.random.default_rng(2)
  orders = np.stack([rng.permutation(NUM_TASKS) for _ in names])

  def permute(leaf):
    return np.take_along_axis(
      leaf, orders.reshape(orders.shape + (1,) * (leaf.ndim - 2)), axis=1
    )

  permuted = jax.tree.map(permute, drawn)
  again, other = update(name, permuted)
  size = np.maximum(
    lengths_and_size(drawn.grads, weights)[1],
    lengths_and_size(permuted.grads, other)[1],
  )
  error = np.linalg.norm(again - updates, axis=1)
  open_rank = rank_is_open(drawn.grads)
  # Four of the forty ill-conditioned ones: nearly all are still looked at.
  assert open_rank.mean() < 0.02
  holds = (error <= 16 * np.sqrt(EPS) * size) | open_rank
  assert_all(holds, "permutation equivariance")
