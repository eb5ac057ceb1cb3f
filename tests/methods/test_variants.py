"""Arguments that make another method of one, held to what all methods are.

The suites of `tests/contract` build each method as its row says. These rules
keep nothing from step to step, so that what the suites read off fifteen runs
is read off a batch here, in the program of the families.
"""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import EPS, cases, judged, raw_on, solved_on
from one_step import gradients, run
from references import FAMILIES, REFERENCES

import optax_mtl
from optax_mtl._dtypes import solver_dtype

T = harness.NUM_TASKS
COUNTS = (0.2, 0.3, 0.7)
#: Method, its arguments, and the power of the scale that its weights go with.
VARIANTS = [
  ("mgda", {"cap": 0.4}, 0.0),
  ("cagrad", {"preference": COUNTS}, 0.0),
  ("cagrad", {"preference": COUNTS, "clip": True}, 0.0),
  # From `M w = (p/w)^(1/2)`.
  ("fairgrad", {"alpha": 2.0, "preference": COUNTS}, -4 / 3),
]
variants = pytest.mark.parametrize("name, options, power", VARIANTS)


def batch():
  """As many well conditioned matrices as there are of the families."""
  rng = np.random.default_rng(5)
  return judged(
    ["iid"] * 2 * len(FAMILIES),
    rng.standard_normal((2 * len(FAMILIES), T, 10)),
  )


@variants
@pytest.mark.parametrize(
  "dtype, x64", [("bfloat16", False), ("float32", True), ("float64", True)]
)
def test_types(name, options, power, dtype, x64):
  """Updates have the params' dtypes, and a state the solver's."""
  del power
  with jax.enable_x64(x64):
    data = harness.to_dtype(harness.data(num_steps=1), dtype)
    row, params = harness.row_of(data, 0), harness.params(dtype)
    tx = optax_mtl.METHODS[name](T, **options)
    state, updates, new_state = harness.traced(tx, row, params)
    assert harness.signature(updates) == harness.signature(
      jax.eval_shape(lambda: params)
    )
    assert harness.signature(state) == harness.signature(new_state)
    for leaf in jax.tree.leaves(state):
      assert not leaf.weak_type
      if jnp.issubdtype(leaf.dtype, jnp.floating):
        assert leaf.dtype == solver_dtype()


def wanted(name, options, grads):
  """What the reference weighs, [N, T]."""
  options = {
    k: np.array(v) if isinstance(v, tuple) else v for k, v in options.items()
  }
  if name == "fairgrad":
    options["max_norm"] = np.inf
  if name == "cagrad":
    options["rescale"] = 0
  return REFERENCES[name](T, grads, {}, **options)


@variants
def test_in_float32(name, options, power):
  """The reference's, of any scale, of tasks in any order, whoever is absent."""
  data = batch()
  found = solved_on(data, name, **options)
  expected = wanted(name, options, data.grads)
  size = np.abs(expected).sum(axis=1, keepdims=True)
  # The rounding of M times its condition number, below 1e3.
  assert (abs(found.weights - expected) <= 1e3 * EPS * size).all()
  plain = raw_on(data, name, **options)
  for absent in (np.nan, np.inf):
    again = raw_on(data, name, absent=absent, **options)
    np.testing.assert_array_equal(again.weights, plain.weights)
    np.testing.assert_array_equal(again.updates, plain.updates)
  # Powers of two, about 1e-15 and 1e15, whose power is one too.
  for exponent in (-48, 48):
    scaled = judged(data.names, data.grads * 2.0**exponent)
    again = solved_on(scaled, name, **options).weights
    error = abs(again / 2.0 ** (power * exponent) - found.weights)
    # A power is rounded, and a solver starts from it.
    assert (error <= 1e3 * EPS * size).all()
  order = [2, 0, 1]
  turned = {
    k: tuple(np.array(v)[order]) if isinstance(v, tuple) else v
    for k, v in options.items()
  }
  again = solved_on(judged(data.names, data.grads[:, order]), name, **turned)
  assert (
    abs(again.weights - found.weights[:, order]) <= 2e3 * EPS * size
  ).all()
  spoilt = data.grads.copy()
  spoilt[:, 1] = np.nan
  shows = raw_on(data._replace(grads=spoilt), name, **options)
  assert np.isnan(shows.updates).all()
  # One task alone, and its copies, which are one.
  alone = solved_on(cases(1), name, **cut(options, 1))
  along = np.sum(alone.updates * cases(1).units[:, 0], axis=1)
  length = np.linalg.norm(alone.updates, axis=1)
  assert (along >= (1 - 1e-6) * length).all()
  copies = judged(data.names, np.repeat(data.grads[:, :1], T, axis=1))
  again = solved_on(copies, name, **options)
  along = np.sum(again.updates * copies.units[:, 0], axis=1)
  assert (along > (1 - 1e-6) * np.linalg.norm(again.updates, axis=1)).all()


def cut(options, num_tasks):
  return {
    k: v[:num_tasks] if isinstance(v, tuple) else v for k, v in options.items()
  }


@pytest.mark.parametrize(
  "name, options, power", [VARIANTS[i] for i in (0, 2, 3)]
)
def test_in_float64(name, options, power):
  """The same to float64's rounding, and whoever is absent takes no part."""
  grads, other = gradients(3), {}
  if name == "fairgrad":
    other["max_norm"] = np.inf
  if name == "cagrad":
    other["rescale"] = 0
  options = {
    k: np.array(v) if isinstance(v, tuple) else v for k, v in options.items()
  }
  found = run(name, grads, **options, **other)
  expected = wanted(name, options, grads)
  size = np.abs(expected).sum(axis=1, keepdims=True)
  # The solvers' 16 to 800 roundings, times a condition number below 1e4.
  assert (abs(found.weights - expected) <= 1e-8 * size).all()
  for scale in (1e-15, 1e15):
    again = run(name, scale * grads, **options, **other).weights / scale**power
    assert (abs(again - found.weights) <= 1e-8 * size).all()
  masked = run(name, grads, np.array([True, False, True]), **options, **other)
  assert (masked.weights[:, 1] == 0).all()
