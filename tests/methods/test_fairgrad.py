"""FairGrad: `M w = w^(-1/alpha)`, Nash-MTL for alpha = 1."""

import hypothesis
import jax
import numpy as np
from families import (
  DELTA,
  STATIONARY,
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
  COUNT,
  ORTHOGONAL,
  assert_oracles,
  assert_same,
  close,
  gradients,
  lengths,
  run,
  step,
)
from references import shortest_in_hull

import optax_mtl
from optax_mtl import solvers


def test_oracles():
  assert_oracles(
    "fairgrad",
    [
      # n_i^2 w_i = w_i^(-1/2), so w_i n_i = n_i^(-1/3).
      (
        {"alpha": 2.0, "max_norm": np.inf},
        ORTHOGONAL,
        [1, 2 ** (-1 / 3), 3 ** (-1 / 3)],
      ),
      ({"max_norm": np.inf}, ORTHOGONAL, [1, 1, 1]),
      ({}, ORTHOGONAL, np.ones(3) / np.sqrt(3)),
    ],
  )


def test_a_preference():
  """Orthogonal units, α = 2: w = p^(1/3), however it is given."""
  grads, p = np.eye(3), np.array([1.0, 8.0, 27.0])
  expected = p ** (1 / 3)
  options = {"alpha": 2.0, "max_norm": np.inf}
  found = run("fairgrad", [grads], preference=p, **options)
  close(found.weights, [expected], 1e-9)
  tx = optax_mtl.fairgrad(3, 2.0, max_norm=None)
  _, state = step(tx, grads, preference=p)
  close(state.weights, expected, 1e-5)
  # None is 1 each, so that nothing is shared; and 0 takes no part.
  mask, p = np.array([True, True, False]), np.array([1.0, 0.0, 1.0])
  found = run("fairgrad", [grads], mask, preference=p, **options)
  close(found.weights, [[1, 0, 0]], 1e-9)


def test_it_solves_its_equation_for_any_preference():
  """M w = (p/w)^(1/alpha), in the solver's own residual, over 24 decades."""
  rng = np.random.default_rng(3)
  grads = rng.standard_normal((32, 5, 9)).astype(np.float32)
  p = (10.0 ** rng.uniform(-2, 2, (32, 5))).astype(np.float32)
  p *= np.float32(10.0) ** rng.integers(-12, 12, (32, 1)).astype(np.float32)
  solve = jax.jit(
    jax.vmap(lambda g, p: solvers.fairness(g @ g.T, 2.0, preference=p))
  )
  w, certificate = solve(grads, p)
  assert np.asarray(certificate.converged).all()
  g, w = grads.astype(float), np.asarray(w, float)
  gains = np.einsum("ntp,nsp,ns->nt", g, g, w)
  # The certificate's 9.5e-5, and the rounding of M where its terms cancel.
  np.testing.assert_allclose(gains, np.sqrt(p / w), rtol=3e-4)


def test_alpha_one_is_nash():
  for num_tasks in (2, 3):
    grads = gradients(num_tasks)
    fair = run("fairgrad", grads, max_norm=np.inf)
    nash = run("nash_mtl", grads, max_norm=np.inf)
    assert_same(fair.updates, nash.updates)
    assert_same(fair.weights, nash.weights)


def test_a_norm_below_the_limit_is_left_alone():
  """FairGrad's length depends on the gradients unless alpha is 1."""
  grads = 1e-3 * gradients(2)
  free = run("fairgrad", grads, alpha=0.5, max_norm=np.inf)
  limited = run("fairgrad", grads, alpha=0.5)
  norms = lengths(free.updates)
  assert (norms < 1).any() and (norms > 1e-6).all()
  assert_same(limited.updates, free.updates * np.minimum(1, 1 / norms))
  np.testing.assert_array_equal(limited.weights, free.weights)


def test_no_limit_is_none():
  assert optax_mtl.fairgrad(3, max_norm=None).rule.max_norm is None
  assert optax_mtl.fairgrad(3).rule.max_norm == 1


def test_it_solves_its_equation_for_any_alpha():
  """M w = w^(-1/alpha); one compilation for all alphas."""
  grads = gradients(3)
  alphas = np.geomspace(0.25, 8, COUNT)
  w = run("fairgrad", grads, alpha=alphas, max_norm=np.inf).weights
  gains = np.einsum("ntp,nsp,ns->nt", grads, grads, w)
  np.testing.assert_allclose(gains, w ** (-1 / alphas[:, None]), rtol=1e-9)


def assert_balanced(data, preference, rows):
  """`M w = (p/w)^(1/alpha)` at the authors' `alpha = 2`.

  None for a zero gradient or a task that does not count.
  """
  num_tasks = data.norms.shape[1]
  preference = tuple(preference[:num_tasks])
  found = solved_on(data, "fairgrad", alpha=2.0, preference=preference)
  present = data.present & (np.array(preference) > 0)
  assert (found.weights[~present] == 0).all()
  assert (found.weights[present] > 0).all()
  safe = np.where(present, found.weights, 1)
  gains = data.norms * data.products(found.weights)
  wanted = (np.array(preference) / safe) ** 0.5
  error = np.where(present, np.abs(gains - wanted), 0)
  bound = DELTA * (data.norms * data.size(found.weights)[:, None] + wanted)
  assert_at_most(error, bound, data.names, rows(found))
  return found


COUNTS = (1.0, 9.0, 0.25, 0.0, 1e-3, 1e3, 4.0, 2.0, 0.5, 1.0)


@sizes
def test_it_balances_gains(num_tasks):
  data = cases(num_tasks)
  rows = data.without(*STATIONARY)
  for preference in ((1.0,) * num_tasks, COUNTS):
    found = assert_balanced(data, preference, lambda _: rows)
    # The smallest gain is small against its terms where lengths differ so much.
    hard = ("ill_conditioned", "conflicting", "scaled_1e6")
    assert found.converged[data.without(*hard, *STATIONARY)].all()


@few
@hypothesis.given(integers)
def test_small_integers(grads):
  """Solved, but where zero is in the hull or rounding is in the way.

  The certificate asks for 800 roundings of each gain, and a gain's own are some
  16 of its terms: it may fail where one is a fiftieth of these.
  """
  data = drawn(grads)
  for preference in ((1.0,) * 5, COUNTS[:5]):
    found = assert_balanced(data, preference, lambda found: found.converged)
    there = data.present & (np.array(preference) > 0)
    terms = data.size(found.weights)[:, None]
    gains = data.products(found.weights) / np.where(terms > 0, terms, 1)
    least = np.where(there, gains, np.inf).min(axis=1)
    assert (found.converged | (least < 1 / 50)).all()
    for i in np.flatnonzero(found.status == solvers.Status.STATIONARY):
      rows = data.units[i][there[i]]
      # Of 16 roundings its square is, and of a few that the cosines have.
      assert np.linalg.norm(shortest_in_hull(rows) @ rows) < 3e-3


@sizes
def test_it_keeps_to_the_limit(num_tasks):
  """To a rounding: it is measured on the update itself."""
  data = cases(num_tasks)
  found = solved("fairgrad", num_tasks, max_norm=1.0)
  norm = np.linalg.norm(found.updates, axis=1)
  assert_at_most(norm, 1 + DELTA, data.names)
