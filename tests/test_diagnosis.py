"""The diagnosis of a user's model: figures, advice, and how they are shown.

The losses are linear in the params, so that a batch is its own gradient and
every figure has a closed form.
"""

import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest

import optax_mtl
from optax_mtl import plot
from optax_mtl.diagnosis import advice, statistics

TASKS, SIZE, BATCHES = 3, 6, 12


def linear(params, gradients):
  """Losses whose gradients are the rows, the last for a head of its own."""
  losses = gradients[:, :SIZE] @ params["trunk"]
  own = params["head"] * gradients[2, SIZE]
  return {
    "a": losses[0],
    "b": losses[1],
    "c": losses[2] + jnp.sum(own),
  }


PARAMS = {"trunk": jnp.ones(SIZE), "head": jnp.ones(2)}


@functools.cache
def drawn():
  """Gradients [N, T, P + 1]; a and b oppose each other, c is noise."""
  rng = np.random.default_rng(0)
  mean = np.zeros((TASKS, SIZE + 1))
  mean[0, 0], mean[1, 0], mean[1, 1], mean[2, SIZE] = 1, -1, 1, 2
  scale = np.array([0.3, 0.3, 1.0])[:, None]
  noise = scale * rng.normal(size=(BATCHES, TASKS, SIZE + 1))
  noise[:, :, SIZE] = 0
  return (mean + noise).astype(np.float32)


@functools.cache
def found():
  """One diagnosis that most tests read."""
  batches = [jnp.asarray(batch) for batch in drawn()]
  return optax_mtl.diagnose(linear, PARAMS, batches, costs=False)


def test_figures_are_those_of_their_definitions():
  """Norms, signal, noise, cosines and alignment, in float64."""
  gradients = drawn()[:, :, :SIZE].astype(np.float64)
  norms = np.linalg.norm(gradients, axis=2)
  of = found().statistics
  # Sums of six float32 products, and a root.
  close = functools.partial(np.testing.assert_allclose, rtol=8 * 6e-8)
  close(of.norms, norms)
  mean = gradients.mean(axis=0)
  noise = np.sqrt(((gradients - mean) ** 2).sum(axis=(0, 2)) / (BATCHES - 1))
  # A difference of squares: what float32 leaves of it, for c by cancellation.
  np.testing.assert_allclose(of.noise, noise, rtol=1e-5)
  signal = np.sqrt(np.maximum((mean**2).sum(axis=1) - noise**2 / BATCHES, 0))
  np.testing.assert_allclose(of.signal, signal, rtol=1e-5, atol=1e-3)
  units = gradients / norms[:, :, None]
  cosines = units @ units.transpose(0, 2, 1)
  np.testing.assert_allclose(of.cosines, cosines, atol=8 * 6e-8)
  np.testing.assert_allclose(
    of.mean_cosines, cosines.mean(axis=0), atol=8 * 6e-8
  )
  errors = cosines.std(axis=0, ddof=1) / np.sqrt(BATCHES)
  np.testing.assert_allclose(of.cosine_errors, errors, atol=8 * 6e-8)
  alignment = 2 * (units.mean(axis=1) ** 2).sum(axis=1) - 1
  np.testing.assert_allclose(of.alignment, alignment, atol=8 * 6e-8)
  upper = np.triu_indices(TASKS, 1)
  close(of.conflict_rate, (cosines[:, upper[0], upper[1]] < 0).mean())
  close(found().losses[:, :2], gradients[:, :2].sum(axis=2), atol=1e-6)


def test_known_alignment():
  """(1, 0), (0, 1), (-1, 0) have -7/9; two tasks have their cosine."""
  rows = np.array([[1.0, 0], [0, 1], [-1, 0]])
  gram = (rows @ rows.T)[None]
  counts = np.ones((1, 3), bool)
  of = statistics.statistics_of(gram, counts, np.diagonal(gram[0]))
  np.testing.assert_allclose(of.alignment, [-7 / 9], rtol=1e-6)
  two = statistics.statistics_of(
    np.array([[[4.0, -1.0], [-1.0, 1.0]]]), counts[:, :2], np.ones(2)
  )
  np.testing.assert_allclose(two.alignment, [-0.5], rtol=1e-6)
  assert np.isnan(two.noise).all()


def test_a_conflict_within_its_noise_is_none():
  """Only a and b oppose each other; c's cosines are noise around zero."""
  of = found().statistics
  assert of.conflicts == [(0, 1)]
  assert (of.cosines[:, 0, 2] < 0).any()


def test_leaves_by_what_the_gradients_say():
  """The head is the task's whose gradient is in it."""
  by_name = {leaf.name: leaf for leaf in found().leaves}
  assert by_name["['head']"].tasks == ("c",)
  assert not by_name["['head']"].in_trunk
  assert by_name["['trunk']"].tasks == ("a", "b", "c")
  head = np.abs(drawn()[:, 2, SIZE].astype(np.float64))
  expected = np.sqrt(2 * (head**2).mean())
  np.testing.assert_allclose(
    by_name["['head']"].norms, [0, 0, expected], rtol=8 * 6e-8
  )


def test_advice_names_methods_that_exist():
  """The symptoms of this model, and none of another."""
  symptoms = " ".join(entry.symptom for entry in found().advice)
  assert "conflict" in symptoms
  assert "noise" in symptoms
  assert "No reason" not in symptoms
  assert "differ in length" not in symptoms
  for entry in found().advice:
    for name in entry.methods:
      assert callable(getattr(optax_mtl, name))


def figures(gram, losses=None, costs=()):
  """What advice is computed from, of two tasks and one batch."""
  gram = np.asarray(gram, np.float64)[None]
  counts = np.ones(gram.shape[:2], bool)
  of = statistics.statistics_of(gram, counts, np.diagonal(gram[0]))
  losses = np.ones(gram.shape[:2]) if losses is None else np.asarray(losses)
  names = [f"task {task}" for task in range(gram.shape[1])]
  return advice.Figures(names, losses, counts, of, (), costs)


def first(given):
  """The first method of the first advice."""
  return advice.advise(given)[0].methods[:1]


def test_advice_by_symptom():
  """Each from the figures that it is for, on both sides of its threshold."""
  assert first(figures([[1, 0.5], [0.5, 1]])) == ("equal_weighting",)
  assert first(figures([[1, 0], [0, 99**2]])) == ("uncertainty_weighting",)
  assert first(figures([[1, 0], [0, 9**2]])) == ("equal_weighting",)
  negative = figures([[1, 0], [0, 99**2]], [[-1.0, 1.0]])
  assert first(negative) == ("imtl_g",)
  assert first(figures([[1, -0.11], [-0.11, 1]])) == ("upgrad",)
  assert first(figures([[1, -0.09], [-0.09, 1]])) == ("equal_weighting",)
  still = advice.advise(figures([[1, 0], [0, 0]]))
  assert any("no gradient" in entry.symptom for entry in still)


def test_terms_one_of_which_is_absent():
  """It counts in the batches that have it; NaN stands for it elsewhere."""
  terms = {
    "pde": lambda params, x, y: jnp.sum(params["w"] * x) + y,
    "wall": lambda params, x: jnp.sum(params["w"] * x),
  }
  rng = np.random.default_rng(1)
  points = rng.normal(size=(3, 2, 4)).astype(np.float32)
  batches = [
    {"pde": (jnp.asarray(pde), jnp.zeros(())), "wall": jnp.asarray(wall)}
    for pde, wall in points
  ]
  del batches[1]["wall"]
  params = {"w": jnp.ones(4), "unused": jnp.ones(3)}
  of = optax_mtl.diagnose(terms, params, batches, costs=False)
  assert of.names == ("pde", "wall")
  norms = np.linalg.norm(points.astype(np.float64), axis=2)
  norms[1, 1] = np.nan
  np.testing.assert_allclose(of.statistics.norms, norms, rtol=8 * 6e-8)
  mean = points[[0, 2], 1].astype(np.float64).mean(axis=0)
  spread = ((points[[0, 2], 1] - mean) ** 2).sum()
  np.testing.assert_allclose(of.statistics.noise[1], spread**0.5, rtol=1e-5)
  assert [leaf.tasks for leaf in of.leaves] == [(), ("pde", "wall")]
  assert "wall in 1 of 3 batches" in " ".join(str(of).split())


def test_costs_of_every_source():
  """The summed loss first; the representation where its trunk is known."""

  def trunk(params, x):
    return params["w"] * x

  def heads(params, z, x):
    return [jnp.sum(z), jnp.sum(params["v"] * z**2)], x

  params = {"w": jnp.ones(3), "v": jnp.ones(3)}
  of = optax_mtl.diagnose(
    (lambda params, x: (trunk(params, x), x), heads),
    params,
    [jnp.arange(3.0)],
    has_aux=True,
  )
  assert [cost.source for cost in of.costs] == [
    "summed loss",
    *("stacked", "stacked, shared="),
    *("implicit", "implicit, shared="),
    *("representation", "representation, shared="),
  ]
  assert "summed loss" in str(of)
  assert len(plot.diagnosis(of).axes) == 4
  assert of.costs[0].times_plain == 1
  assert all(cost.seconds > 0 for cost in of.costs)
  assert of.names == ("task 0", "task 1")


def test_it_is_shown():
  """As text with every task, as JSON, by rich, and as a picture."""
  text = str(found())
  assert all(len(line) <= 80 for line in text.splitlines())
  for name in ("a", "b", "c", "['head']", "upgrad"):
    assert name in text
  data = json.loads(json.dumps(found().as_dict(), allow_nan=False))
  assert data["names"] == ["a", "b", "c"]
  assert np.shape(data["statistics"]["cosines"]) == (BATCHES, TASKS, TASKS)
  console = pytest.importorskip("rich.console").Console(width=100, record=True)
  with console.capture() as captured:
    console.print(found())
  assert "['head']" in captured.get()
  assert len(plot.diagnosis(found()).axes) == 3


@pytest.mark.parametrize(
  ("function", "batches", "error", "words"),
  [
    (3, [1.0], TypeError, "loss_function must be"),
    ((linear,), [1.0], TypeError, "loss_function must be"),
    (linear, jnp.ones(3), TypeError, "batches must be a list"),
    (linear, [], ValueError, "batches is empty"),
  ],
)
def test_refusals(function, batches, error, words):
  """Each names what came and what to give."""
  with pytest.raises(error, match=words):
    optax_mtl.diagnose(function, PARAMS, batches)
