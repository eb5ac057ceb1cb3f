"""The terms of the problems, on exact solutions of their equations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.pinn import (
  derivatives,
  network,
)
from benchmarks.pinn.problem import RESIDUAL
from benchmarks.pinn.problems import PROBLEMS
from benchmarks.pinn.problems.helmholtz import exact as helmholtz_wave
from benchmarks.pinn.problems.helmholtz import helmholtz
from benchmarks.pinn.problems.klein_gordon import exact as klein_gordon_wave
from benchmarks.pinn.references import allen_cahn, burgers

#: For what runs once: the compiler's best would take longer.
once = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
problem_named = functools.cache(lambda name: PROBLEMS[name]())


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def inside(low, high, number=20):
  """Points in a box, in float64."""
  unit = np.random.default_rng(0).uniform(size=(number, 2))
  return jnp.asarray(np.array(low) + unit * (np.array(high) - np.array(low)))


def burgers_flow(points):
  return burgers.solution(points[:, 0], points[:, 1], xp=jnp)


def wave(points):
  return jnp.sin(points[:, 1] - 100 * points[:, 0])


def kovasznay(points):
  """An exact solution of the equations of the cavity, between other walls."""
  rate = 50 - np.sqrt(50**2 + 4 * np.pi**2)
  x, y = points[:, 0], points[:, 1]
  decay = jnp.exp(rate * x)
  u = 1 - decay * jnp.cos(2 * jnp.pi * y)
  v = rate / (2 * jnp.pi) * decay * jnp.sin(2 * jnp.pi * y)
  return jnp.stack([u, v, -(decay**2) / 2], axis=1)


def allen_cahn_series(points):
  """The series in space; in time the polynomial through nine of its values."""
  series = allen_cahn.coefficients(101)
  first, count, spacing = 46, 9, 1 / 100
  nodes = (first + np.arange(count)) * spacing
  vandermonde = np.vander((nodes - 0.5) / spacing, increasing=True)
  polynomial = jnp.asarray(np.linalg.solve(vandermonde, series[first:][:count]))
  waves = jnp.pi * jnp.arange(series.shape[1], dtype=jnp.float64)
  time = (points[:, :1] - 0.5) / spacing
  powers = time ** jnp.arange(count, dtype=jnp.float64)[None]
  return jnp.sum(
    (powers @ polynomial) * jnp.cos(points[:, 1:] * waves[None]), axis=1
  )


#: Problem -> an exact solution of its equation, a box that it is smooth in, and
#: how large the residual may be: so many roundings of the terms that cancel.
EXACT = {
  # Second derivatives of waves of numbers up to 4π.
  "helmholtz": (helmholtz_wave, (-1, -1), (1, 1), 1e-11),
  "klein_gordon": (klein_gordon_wave, (0, 0), (1, 1), 1e-11),
  # The terms have the size of c = 100.
  "advection": (wave, (0, 0), (1, 6), 1e-11),
  # Slopes up to 1/ν at the shock, and second derivatives up to its square.
  "burgers": (burgers_flow, (0.05, -1), (1, 1), 1e-8),
  # The polynomial in time is good to 1e-9, and its slope to ten times that.
  "allen_cahn": (allen_cahn_series, (0.49, -1), (0.51, 1), 1e-8),
  "cavity": (kovasznay, (0, 0), (1, 1), 1e-13),
}


def test_residuals_of_exact_solutions_vanish(x64):
  boxes = {name: inside(*box) for name, (_, *box, _) in EXACT.items()}
  log = jnp.log(burgers.VISCOSITY)
  slow = helmholtz(waves=(1.0, 2.0))
  slow_wave = functools.partial(helmholtz_wave, waves=(1.0, 2.0))

  @once
  def all_residuals(boxes):
    found = {}
    for name, (field, *_) in EXACT.items():
      term = problem_named(name).terms[RESIDUAL]
      found[name] = term.residuals(field, {}, boxes[name])
    inverse = problem_named("burgers_inverse").terms[RESIDUAL].residuals
    for name, params in (("right", log), ("wrong", log + 1)):
      found[name] = inverse(
        burgers_flow, {"log_viscosity": params}, boxes["burgers"]
      )
    found["slow"] = slow.terms[RESIDUAL].residuals(
      slow_wave, {}, boxes["helmholtz"]
    )
    return found

  found = all_residuals(boxes)
  for name, (*_, tolerance) in EXACT.items():
    assert abs(found[name]).max() < tolerance, name
  assert found["cavity"].shape == (60,)
  assert abs(found["slow"]).max() < EXACT["helmholtz"][-1]
  assert abs(slow_wave(slow.points) - slow.solution).max() < 1e-12
  # With the viscosity unknown it is the same equation, and another one else.
  assert abs(found["right"]).max() < EXACT["burgers"][-1]
  assert abs(found["wrong"]).max() > 1e-2


def test_conditions_of_exact_solutions_vanish():
  """At points drawn in float32, hence to roundings of values of some 100."""
  names = ["helmholtz", "klein_gordon", "burgers", "advection"]

  @once
  def conditions(key):
    found = {}
    for name in [*names, "burgers_inverse"]:
      problem = problem_named(name)
      field = EXACT[name.removesuffix("_inverse")][0]
      for term, points in problem.sample(key).items():
        # The values that are given are checked below.
        if term not in (RESIDUAL, "data"):
          residuals = problem.terms[term].residuals(field, {}, points)
          found[name, term] = jnp.max(jnp.abs(residuals))
    # The cavity's fluid at rest: the lid alone is wrong, by 1 at 50 points.
    cavity = problem_named("cavity")
    still = lambda points: jnp.zeros((len(points), 3))  # noqa: E731
    for term, points in cavity.sample(key).items():
      residuals = cavity.terms[term].residuals(still, {}, points)
      found["cavity", term] = jnp.sum(jnp.square(residuals))
    return {" ".join(key): value for key, value in found.items()}

  found = conditions(jax.random.key(0))
  assert found.pop("cavity wall_u") == 50
  assert found.pop("cavity wall_v") == 0
  assert found.pop("cavity residual") == 0
  assert len(found) == 1 + 2 + 2 + 1 + 2
  for name, value in found.items():
    assert value < 1e-4, name


def test_given_values_are_those_of_the_solution():
  sample = problem_named("burgers_inverse").terms["data"].sample
  t, x, u = np.asarray(sample(jax.random.key(0)), np.float64).T
  # Rounded to float32, at a slope of up to 1/ν = 314.
  assert abs(burgers.solution(t, x) - u).max() < 314 * 2e-7


def test_derivatives_agree(x64):
  """Of a network with an angle as input, as advection has it."""
  problem = problem_named("advection")
  small = network.init([3, 4, 1])(jax.random.key(0))
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), small)
  field = functools.partial(problem.predict, params)

  @once
  def all_of_them(points):
    modes = ("reverse", "jet", "forward")
    found = [derivatives.second(field, points, 1, mode) for mode in modes]
    return found, derivatives.first(field, points, 1)

  (expected, *others), first = all_of_them(inside((0, 0), (1, 6), 5))
  for values in (*others, first):
    for a, b in zip(values, expected, strict=False):
      # Values of size 1.
      np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_every_problem_has_losses_for_every_term(name):
  """Shapes alone: nothing is compiled."""
  problem = problem_named(name)
  key = jax.random.key(0)
  params = jax.eval_shape(problem.init, key)
  batches = jax.eval_shape(problem.sample, key)
  assert problem.task_names == list(batches)
  for term, points in batches.items():
    loss = jax.eval_shape(functools.partial(problem.loss, term), params, points)
    assert loss.shape == ()
  solved = jax.eval_shape(problem.solved, params)
  assert solved.shape == problem.solution.shape
  assert len(problem.points) == np.prod([len(a) for a in problem.axes.values()])
  assert problem.name == name
