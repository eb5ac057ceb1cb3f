"""The physics-informed problems: references, terms, and short trainings."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_mtl
from benchmarks.pinn import (
  compare,
  derivatives,
  network,
  recipes,
  report,
  training,
)
from benchmarks.pinn.problem import RESIDUAL
from benchmarks.pinn.problems import PROBLEMS
from benchmarks.pinn.problems.helmholtz import exact as helmholtz_wave
from benchmarks.pinn.problems.klein_gordon import exact as klein_gordon_wave
from benchmarks.pinn.references import allen_cahn, burgers
from benchmarks.pinn.references import cavity as cavity_flow

#: t, x and u of `burgers_shock.mat`, the table of Raissi, Perdikaris and
#: Karniadakis: places 64, 100, 120, 127, 200, 30 of 256, times of 100.
BURGERS_TABLE = np.array(
  [
    [0.25, -0.4980392156862745, 0.8056619164066212],
    [0.5, -0.21568627450980393, 0.8769223443083046],
    [0.75, -0.05882352941176472, 0.831445332105659],
    [0.99, -0.0039215686274509665, 0.3123187255579597],
    [0.99, 0.5686274509803921, -0.32754238749147424],
    [0.1, -0.7647058823529411, 0.5383508679094962],
  ]
)

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


def test_burgers_is_the_table_that_everybody_compares_with():
  """`burgers_shock.mat` of Raissi, Perdikaris & Karniadakis."""
  table = BURGERS_TABLE
  found = burgers.solution(table[:, 0], table[:, 1])
  # Both are quadratures in float64, exact to some hundred roundings.
  assert abs(found - table[:, 2]).max() < 1e-10


def test_burgers_is_another_quadrature():
  """The same integrals over the place instead of the Gaussian's argument."""
  nu, t = burgers.VISCOSITY, 0.6
  for x in (-0.9, -0.3, 0.01, 0.5):
    # The trapezoidal rule on a smooth integrand that ends in zeros.
    y = np.linspace(x - 4, x + 4, 40_001)
    exponent = -np.cos(np.pi * y) / (2 * np.pi * nu)
    exponent -= (x - y) ** 2 / (4 * nu * t)
    phi = np.exp(exponent - exponent.max())
    expected = -(np.sin(np.pi * y) * phi).sum() / phi.sum()
    found = burgers.solution(np.array(t), np.array(x))
    assert abs(found - expected) < 1e-10


def test_allen_cahn_does_not_depend_on_modes_and_steps():
  """Half the modes and fewer steps, which is how far the reference can be off.

  Of fourth order in the steps: 400 instead of 1000 are 39 times worse. The kink
  at the walls makes modes count at the first times alone.
  """
  places = np.linspace(-1, 1, 101)
  found = allen_cahn.solution(101, places)
  coarse = allen_cahn.solution(101, places, modes=1024, steps=400)
  assert abs(found - coarse).max() < 39 * 1e-10


def test_allen_cahn_is_the_table_that_everybody_compares_with():
  """`AC.mat` of Raissi, Perdikaris and Karniadakis, itself good to 2e-6."""
  table = {
    -1.0: -0.9999988894533967,
    -0.75: -0.9998772428519339,
    -0.5: -0.06407762203955703,
    -0.21875: 0.9836443286244515,
    0.0: 0.02957972234920425,
    0.25: 0.9884746503209177,
  }
  found = allen_cahn.solution(101, np.array(list(table)))[-1]
  assert abs(found - list(table.values())).max() < 2e-6


def test_cavity_has_the_extremes_of_botella_and_peyret():
  """Computers & Fluids 1998, Table 9: Reynolds number 100."""
  flow = cavity_flow.flow(100.0)
  line, middle = np.linspace(0, 1, 2001), np.array([0.5])
  u = flow.velocity(middle, line)[0][0]
  v = flow.velocity(line, middle)[1][:, 0]
  found = [u.min(), v.max(), v.min()]
  places = [line[u.argmin()], line[v.argmax()], line[v.argmin()]]
  # They give seven digits. Here what is left of the corners' singularity limits
  # them: from 20 to 24 to 28 inner points these change by 4e-5 and by 2e-5.
  np.testing.assert_allclose(
    found, [-0.2140424, 0.1795728, -0.2538030], atol=4e-5
  )
  # The places are given to four digits, the line has steps of 5e-4.
  np.testing.assert_allclose(places, [0.4581, 0.2370, 0.8104], atol=5e-4)


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
    return found

  found = all_residuals(boxes)
  for name, (*_, tolerance) in EXACT.items():
    assert abs(found[name]).max() < tolerance, name
  assert found["cavity"].shape == (60,)
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


def test_what_networks_share_is_carried_once():
  """A counter is; params and what follows from the seed are not."""
  tx = optax_mtl.refresh_every(optax_mtl.mgda(2), 10)

  def init(key, point):
    params = jax.random.normal(key, (3,))
    return params, tx.init(params)

  def step(carry, point, key, index):
    params, state = carry
    updates, state = tx.update(jnp.stack([params, -params]), state)
    return (params - updates, state), ()

  axes = training.common_leaves(init, step, jax.random.key(0), jnp.zeros(()))
  carry = init(jax.random.key(0), jnp.zeros(()))
  axes = jax.tree.unflatten(jax.tree.structure(carry), axes)
  assert axes[0] == 0
  assert axes[1].weights == 0
  leaves = jax.tree.leaves(axes[1], is_leaf=lambda axis: axis is None)
  assert None in leaves


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
  """A short training of two methods, and what it wrote."""
  out = tmp_path_factory.mktemp("pinn")
  argv = ["--steps", "4", "--seeds", "2", "--methods", "equal_weighting"]
  # A small network: compiling is what takes the time.
  small = dataclasses.replace(
    problem_named("helmholtz"), init=network.init([2, 4, 1])
  )
  with (
    jax.numpy_dtype_promotion("standard"),
    pytest.MonkeyPatch.context() as patch,
  ):
    patch.setattr(compare, "PROBLEMS", {"helmholtz": lambda: small})
    assert compare.main([*argv, "--out", str(out), "--markdown"]) == 0
  return out, argv


def test_writes_json_pictures_and_one_page(compared):
  out, _ = compared
  data = json.loads((out / "pinn_helmholtz.json").read_text())
  (row,) = data["rows"].values()
  assert len(row["errors"]) == len(row["at_time"]) == 2
  assert row["time"] == row["flops"] == 1
  page = (out / "pinn_helmholtz.html").read_text(encoding="utf-8")
  # Curves have names; the fields are a picture.
  assert page.count("data:image/png;base64,") == 1
  assert page.count("<svg") == 2
  assert 'src="http' not in page


@pytest.mark.standard_promotion
def test_what_is_done_is_not_done_again(compared, monkeypatch):
  out, argv = compared

  def never(*args, **kwargs):
    raise AssertionError("Trained again.")

  shown = []
  monkeypatch.setattr(compare, "train", never)
  monkeypatch.setattr(compare, "show", lambda *args: shown.append(args[2]))
  assert compare.main([*argv, "--out", str(out)]) == 0
  (runs,) = shown
  assert list(runs) == ["equal_weighting"]
  assert runs["equal_weighting"].errors.shape == (1, 2, 4)
  # Other settings are another comparison.
  with pytest.raises(AssertionError, match="again"):
    compare.main([*argv, "--out", str(out), "--steps", "2"])


def test_an_unknown_method_is_named(capsys):
  assert compare.main(["--methods", "nonsense"]) == 2
  assert "nonsense" in capsys.readouterr().out


def a_run(errors, seconds=1.0):
  """A run of one variant, from its errors [S, E]."""
  errors = np.asarray(errors, np.float64)[None]
  rest = np.ones((*errors.shape, 2))
  steps = 10 * np.arange(1, errors.shape[2] + 1)
  return training.Run(
    steps, errors, rest, rest, np.zeros(4), {}, seconds, 1.0, 0.0
  )


def test_equal_time_is_that_of_equal_weights():
  runs = {
    "equal_weighting": a_run([[0.8, 0.4], [0.8, 0.4]]),
    # Twice as slow: at equal time it has done half of the steps.
    "mgda": a_run([[0.2, 0.1], [0.2, np.nan]], seconds=2.0),
    # Twice as fast, and so trained twice as long.
    "upgrad": a_run([[0.9, 0.8, 0.7, 0.6]] * 2, seconds=0.5),
  }
  rows = report.summarize(runs, 20)
  assert rows["mgda"].at_time.tolist() == [0.2, 0.2]
  assert rows["upgrad"].errors.tolist() == [0.8, 0.8]
  assert rows["upgrad"].at_time.tolist() == [0.6, 0.6]
  assert rows["mgda"].time == 2
  # One of two seeds has diverged: the median over both is infinite.
  assert rows["mgda"].median == np.inf
  problem = problem_named("helmholtz")
  assert "decides little" in report.sentence(problem, rows)
  runs["mgda"] = a_run([[0.2, 0.01]] * 2, seconds=2.0)
  rows = report.summarize(runs, 20)
  text = report.sentence(problem, rows)
  assert "mgda" in text and "40 times less" in text and "2.00 times" in text
  assert report.markdown(rows).count("\n") == 4


def test_the_best_point_of_a_sweep_is_its_row():
  run = a_run([[0.5]])
  run.errors = np.array([[[0.5]], [[0.1]], [[np.nan]]])
  run.losses = run.weights = np.ones((3, 1, 1, 2))
  rows = report.summarize(
    {"equal_weighting": a_run([[0.3]])} | {recipes.SWEEP: run}, 10
  )
  assert rows[recipes.SWEEP].point == 1
  assert rows[recipes.SWEEP].label == "fixed_weighting, conditions x 100"


def test_sweep_leaves_the_residual_as_it_is():
  problem = problem_named("burgers")
  weights = recipes.sweep_weights(problem)
  row = problem.task_names.index(RESIDUAL)
  assert (weights[:, row] == 1).all()
  assert (
    np.delete(weights, row, axis=1) == [[10] * 2, [100] * 2, [1000] * 2]
  ).all()
