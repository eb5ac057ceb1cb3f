"""The methods on the Gram matrix: exact values, and the papers' identities."""

import functools
import itertools

import batches
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_mtl
from benchmarks.reference import methods
from benchmarks.reference.methods import pcgrad

# In x64 mode: the solvers stop at 16 to 800 roundings (1.8e-13), and the
# random gradients' Gram matrices have condition numbers up to about 1e4.
RTOL = 1e-9


COUNT = 64
# Hyperparameters that may be traced always are, so that methods are compiled
# once per number of tasks; `max_norm` is inf for none.
TRACED = {
  "pcgrad": {"seed": 0},
  "cagrad": {"c": 0.5, "rescale": 1},
  "nash_mtl": {"max_norm": 1.0},
  "fairgrad": {"alpha": 1.0, "max_norm": 1.0},
}
EQUAL_SHARES = ("upgrad", "dual_proj", "aligned_mtl")


def run(name, grads, **options):
  """`batches.run` in float64, on up to `COUNT` matrices, filled up to it."""
  count, num_tasks, num_params = grads.shape
  padded = np.zeros((COUNT, num_tasks, 7))
  padded[:, :, :num_params] = grads[np.arange(COUNT) % count]
  traced = dict(TRACED.get(name, {}))
  if name in EQUAL_SHARES:
    traced["preference"] = np.full(num_tasks, 1 / num_tasks)
  static = {k: v for k, v in options.items() if k not in traced}
  for key, value in traced.items():
    value = np.asarray(options.get(key, value))
    rows = value.ndim > (key == "preference")
    value = value[np.arange(COUNT) % count] if rows else value
    traced[key] = np.broadcast_to(
      value, (COUNT, num_tasks) if key == "preference" else (COUNT,)
    )
  found = batches.run(name, padded, dtype="float64", traced=traced, **static)
  assert (found.updates[:, num_params:] == 0).all()
  return found._replace(
    updates=found.updates[:count, :num_params], weights=found.weights[:count]
  )


@functools.cache
def gradients(num_tasks):
  """Random gradients, conflicting as often as not."""
  rng = np.random.default_rng(num_tasks)
  return rng.standard_normal((COUNT, num_tasks, 7))


def lengths(rows):
  return np.linalg.norm(rows, axis=-1, keepdims=True)


def assert_same(actual, desired, rtol=RTOL):
  """Row by row, relative to the row's length."""
  error = np.linalg.norm(actual - desired, axis=-1)
  size = np.linalg.norm(desired, axis=-1)
  assert (error <= rtol * size).all(), np.max(error / size)


def assert_parallel(actual, desired, rtol=RTOL):
  assert_same(actual / lengths(actual), desired / lengths(desired), rtol)


CONFLICT = [[1, 0], [-1, 1]]
ORTHOGONAL = [[1, 0, 0], [0, 2, 0], [0, 0, 3]]
ROOT = np.sqrt(2)
# Worked out by hand, from the methods' definitions: name, options, gradients,
# update.
ORACLES = [
  ("pcgrad", {}, CONFLICT, [0.5, 1.5]),
  ("pcgrad", {"reduction": "mean"}, CONFLICT, [0.25, 0.75]),
  ("pcgrad", {}, ORTHOGONAL, [1, 2, 3]),
  ("upgrad", {}, CONFLICT, [0.25, 0.75]),
  ("upgrad", {}, ORTHOGONAL, [1 / 3, 2 / 3, 1]),
  ("dual_proj", {}, CONFLICT, [0, 0.5]),
  ("dual_proj", {}, ORTHOGONAL, [1 / 3, 2 / 3, 1]),
  # The bisector of the two gradients, of length 1, or sqrt(2) unclipped.
  ("nash_mtl", {}, CONFLICT, [np.sin(np.pi / 8), np.cos(np.pi / 8)]),
  (
    "nash_mtl",
    {"max_norm": np.inf},
    CONFLICT,
    [ROOT * np.sin(np.pi / 8), ROOT * np.cos(np.pi / 8)],
  ),
  ("nash_mtl", {"max_norm": 1e3}, ORTHOGONAL, [1, 1, 1]),
  # n_i^2 w_i = w_i^(-1/2), so w_i n_i = n_i^(-1/3).
  (
    "fairgrad",
    {"alpha": 2.0, "max_norm": np.inf},
    ORTHOGONAL,
    [1, 2 ** (-1 / 3), 3 ** (-1 / 3)],
  ),
  ("fairgrad", {"max_norm": np.inf}, ORTHOGONAL, [1, 1, 1]),
  ("imtl_g", {}, ORTHOGONAL, [6 / 11, 6 / 11, 6 / 11]),
  ("imtl_g", {}, CONFLICT, [(ROOT - 1) / (ROOT + 1), 1 / (ROOT + 1)]),
  ("aligned_mtl", {}, ORTHOGONAL, [1 / 3, 1 / 3, 1 / 3]),
  ("aligned_mtl", {"scale": "median"}, ORTHOGONAL, [2 / 3, 2 / 3, 2 / 3]),
  ("aligned_mtl", {"scale": "rmse"}, ORTHOGONAL, [np.sqrt(14 / 3) / 3] * 3),
  # Cosines 1/sqrt(3), lengths 1, 2, 3 and their means.
  ("config", {}, ORTHOGONAL, [2, 2, 2]),
  ("config", {"length": "min"}, ORTHOGONAL, [1, 1, 1]),
  ("config", {"length": "max"}, ORTHOGONAL, [3, 3, 3]),
  ("config", {"length": "harmonic"}, ORTHOGONAL, [18 / 11] * 3),
  ("config", {"length": "arithmetic"}, ORTHOGONAL, [2, 2, 2]),
  ("config", {"length": "geometric"}, ORTHOGONAL, [6 ** (1 / 3)] * 3),
  # The mean (0, 1/2) moved by c/2 = 1/4 along the first gradient: then both
  # gain 1/4.
  ("cagrad", {"rescale": 0}, CONFLICT, [0.25, 0.5]),
  ("cagrad", {"rescale": 1}, CONFLICT, [0.2, 0.4]),
  ("cagrad", {"rescale": 2}, CONFLICT, [1 / 6, 1 / 3]),
  # Nothing helps the worst task: the mean, and zero once it is in the ball.
  ("cagrad", {"rescale": 0}, [[1, 0], [-1, 0], [0, 3]], [0, 1]),
  ("cagrad", {"c": 2.0}, [[1, 0], [-2, 0]], [0, 0]),
  # A task without gradient counts in the mean only.
  ("cagrad", {"rescale": 0}, [[3, 0], [0, 0]], [2.25, 0]),
]


@pytest.mark.parametrize("name, options, grads, expected", ORACLES)
def test_oracles(name, options, grads, expected):
  grads = np.array([grads], float)
  found = run(name, grads, **options)
  assert_same(found.updates, np.array([expected]), 1e-12)
  assert_same(found.weights @ grads[0], np.array([expected]), 1e-12)


def test_two_tasks_pcgrad_is_twice_upgrad():
  grads = gradients(2)
  twice = 2 * run("upgrad", grads).updates
  assert_same(run("pcgrad", grads).updates, twice)
  assert (np.einsum("np,np->n", grads[:, 0], grads[:, 1]) < 0).any()


def test_two_tasks_nash_imtl_and_unit_gradients_are_parallel():
  grads = gradients(2)
  units = (grads / lengths(grads)).sum(axis=1)
  assert_parallel(run("nash_mtl", grads).updates, units)
  assert_parallel(run("imtl_g", grads).updates, units)
  assert_parallel(run("config", grads).updates, units)


@pytest.mark.parametrize("num_tasks", [2, 3])
def test_fairgrad_with_alpha_one_is_unclipped_nash(num_tasks):
  grads = gradients(num_tasks)
  fair = run("fairgrad", grads, max_norm=np.inf)
  nash = run("nash_mtl", grads, max_norm=np.inf)
  assert_same(fair.updates, nash.updates)
  assert_same(fair.weights, nash.weights)
  for found in (fair, nash):
    np.testing.assert_allclose(
      lengths(found.updates), np.sqrt(num_tasks), rtol=RTOL
    )
  # The default clips it: every update has norm 1.
  clipped = run("nash_mtl", grads)
  np.testing.assert_allclose(lengths(clipped.updates), 1, rtol=RTOL)
  assert_parallel(clipped.updates, nash.updates)


def test_a_norm_below_the_limit_is_left_alone():
  """FairGrad's length depends on the gradients unless alpha is 1."""
  grads = 1e-3 * gradients(2)
  free = run("fairgrad", grads, alpha=0.5, max_norm=np.inf)
  limited = run("fairgrad", grads, alpha=0.5)
  norms = lengths(free.updates)
  assert (norms < 1).any() and (norms > 1e-6).all()
  assert_same(limited.updates, free.updates * np.minimum(1, 1 / norms))


def test_fairgrad_solves_its_equation_for_any_alpha():
  """M w = w^(-1/alpha); one compilation for all alphas."""
  grads = gradients(3)
  alphas = np.geomspace(0.25, 8, len(grads))
  w = run("fairgrad", grads, alpha=alphas, max_norm=np.inf).weights
  gains = np.einsum("ntp,nsp,ns->nt", grads, grads, w)
  np.testing.assert_allclose(gains, w ** (-1 / alphas[:, None]), rtol=1e-9)


def test_nash_does_not_see_the_scale_of_a_loss():
  grads = gradients(2)
  scales = np.exp(np.random.default_rng(3).normal(0, 3, (64, 2, 1)))
  assert_same(
    run("nash_mtl", grads * scales).updates, run("nash_mtl", grads).updates
  )


def test_imtl_is_its_closed_form():
  grads = gradients(3)
  expected = np.stack(
    [np.linalg.pinv(g @ g.T) @ np.linalg.norm(g, axis=1) for g in grads]
  )
  expected /= expected.sum(axis=1, keepdims=True)
  # Where the weights' sum nearly vanishes they are large, and so is its error.
  found = run("imtl_g", grads)
  assert_same(found.weights, expected, 1e-8)
  np.testing.assert_allclose(
    found.weights.sum(axis=1), 1, rtol=0, atol=1e-12 * np.abs(expected).max()
  )
  projections = np.einsum("ntp,np->nt", grads / lengths(grads), found.updates)
  spread = np.ptp(projections, axis=1)
  assert (spread <= 1e-9 * lengths(found.updates)[:, 0]).all()


@pytest.mark.parametrize("rescale, divisor", [(0, 1), (1, 1.25), (2, 1.5)])
def test_cagrad_rescale(rescale, divisor):
  """It is `d = mean + c |mean| g_w / |g_w|`, divided by what is asked for."""
  grads = gradients(3)
  found = run("cagrad", grads, rescale=rescale)
  expected = methods.REFERENCES["cagrad"](3, grads, {}, rescale=0)
  assert_same(found.weights * divisor, expected, 1e-7)
  mean = grads.mean(axis=1)
  moved = found.updates * divisor - mean
  np.testing.assert_allclose(
    lengths(moved), 0.5 * lengths(mean), rtol=RTOL, atol=0
  )


def test_cagrad_with_c_zero_is_the_mean():
  grads = gradients(3)
  for rescale in (0, 1, 2):
    found = run("cagrad", grads, rescale=rescale, c=0.0)
    np.testing.assert_allclose(found.weights, 1 / 3, rtol=1e-15)


def test_cagrad_from_c_one_on_hurts_no_task():
  """Zero is in the ball, so that the worst task does not lose."""
  grads = gradients(3)
  found = run("cagrad", grads, rescale=0, c=np.linspace(1, 3, COUNT))
  gains = np.einsum("ntp,np->nt", grads, found.updates)
  assert (gains >= -RTOL * lengths(grads)[..., 0]).all()


@pytest.mark.parametrize("name", ["upgrad", "dual_proj"])
def test_projections_without_conflict_are_the_mean(name):
  found = run(name, np.abs(gradients(3)))
  np.testing.assert_array_equal(found.weights, np.full((64, 3), 1 / 3))


@pytest.mark.parametrize("name", ["upgrad", "dual_proj"])
def test_projections_with_a_preference(name):
  """UPGrad is linear in it; GEM projects another mean."""
  grads = gradients(3)
  preference = np.random.default_rng(5).uniform(0, 2, (64, 3))
  found = run(name, grads, preference=preference)
  reference = methods.REFERENCES[name]
  expected = np.stack(
    [
      reference(3, g[None], {}, preference=p)[0]
      for g, p in zip(grads, preference, strict=True)
    ]
  )
  assert_same(found.weights, expected)


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
def test_aligned_singular_values_are_equal(scale):
  """The update is linear in the preference: e_i gives row i of B G."""
  grads = gradients(3)[:16]
  found = run(
    "aligned_mtl",
    np.repeat(grads, 3, axis=0),
    preference=np.tile(np.eye(3), (16, 1)),
    scale=scale,
  )
  frames = found.updates.reshape(16, 3, -1)
  values = np.linalg.svd(grads, compute_uv=False)
  common = {
    "min": values[:, 2],
    "median": values[:, 1],
    "rmse": np.sqrt(np.mean(values**2, axis=1)),
  }[scale]
  np.testing.assert_allclose(
    np.linalg.svd(frames, compute_uv=False),
    np.repeat(common[:, None], 3, axis=1),
    rtol=RTOL,
  )
  # The nearest such frame: B is symmetric and positive.
  left, _, right = np.linalg.svd(grads, full_matrices=False)
  assert_same(frames, left @ right * common[:, None, None], 1e-8)


@pytest.mark.parametrize(
  "length",
  ["projection", "min", "max", "harmonic", "arithmetic", "geometric"],
)
def test_config_has_equal_cosines_and_its_length(length):
  grads = gradients(3)
  found = run("config", grads, length=length)
  norms = lengths(grads)
  products = np.einsum("ntp,np->nt", grads / norms, found.updates)
  cosines = products / lengths(found.updates)
  assert (np.ptp(cosines, axis=1) <= 1e-9).all() and (cosines > 0).all()
  expected = methods.REFERENCES["config"](3, grads, {}, length=length)
  assert_same(found.updates, np.einsum("nt,ntp->np", expected, grads), 1e-8)


# Each projected gradient of these four takes two values, depending on its own
# order: 16 results, of which 4 occur if all share one order.
SIXTEEN = np.array([[3, 3, -2], [0, 1, 3], [-3, 2, 3], [3, -2, -3]], float)
DRAWS = 4096


def exact_distribution(grads):
  """Result (rounded) -> its probability, over all orders of each task."""
  num_tasks = len(grads)
  orders = list(itertools.permutations(range(num_tasks)))
  parts = [{} for _ in grads]
  for order in orders:
    rows = pcgrad.surgery(grads, np.array([order] * num_tasks)) @ grads
    for part, row in zip(parts, rows, strict=True):
      key = tuple(np.round(row, 9) + 0.0)
      part[key] = part.get(key, 0) + 1 / len(orders)
  result = {}
  for combination in itertools.product(*(part.items() for part in parts)):
    key = key_of(np.sum([row for row, _ in combination], axis=0))
    chance = np.prod([chance for _, chance in combination])
    result[key] = result.get(key, 0) + chance
  return result


def key_of(update):
  return tuple(np.round(np.asarray(update, np.float64), 3) + 0.0)


def assert_distributed(updates):
  expected = exact_distribution(SIXTEEN)
  assert len(expected) == 16 and abs(sum(expected.values()) - 1) < 1e-12
  counts = dict.fromkeys(expected, 0)
  for update in updates:
    counts[key_of(update)] += 1
  for key, chance in expected.items():
    # Five standard deviations: one run in 1e5 fails, and the seeds are fixed.
    deviation = np.sqrt(len(updates) * chance * (1 - chance))
    assert abs(counts[key] - len(updates) * chance) <= 5 * deviation, key
  return expected


def test_pcgrad_over_seeds():
  """All 16 results occur as often as independent orders make them."""
  grads = np.broadcast_to(SIXTEEN, (DRAWS, 4, 3))
  found = batches.run("pcgrad", grads, traced={"seed": np.arange(DRAWS)})
  assert_distributed(found.updates)


def test_pcgrad_over_steps():
  """The same over the steps of one run, and no step repeats the last one's."""
  tx = optax_mtl.pcgrad(4)
  grads = jnp.asarray(SIXTEEN, jnp.float32)

  @jax.jit
  def train():
    def step(state, _):
      updates, state = tx.update(grads, state)
      return state, updates

    return jax.lax.scan(step, tx.init(grads[0]), None, length=DRAWS)[1]

  updates = np.asarray(train())
  expected = assert_distributed(updates)
  again = np.mean(
    [key_of(a) == key_of(b) for a, b in itertools.pairwise(updates)]
  )
  chance = sum(p**2 for p in expected.values())
  assert abs(again - chance) <= 5 * np.sqrt(chance * (1 - chance) / DRAWS)


def test_pcgrad_draws_the_same_orders_in_either_precision():
  """And the same as the references of the other tests."""
  seeds = np.arange(DRAWS)
  grads = np.broadcast_to(SIXTEEN, (DRAWS, 4, 3))
  single = batches.run("pcgrad", grads, traced={"seed": seeds}).weights
  double = run("pcgrad", grads[:COUNT], seed=seeds[:COUNT]).weights
  np.testing.assert_allclose(single[:COUNT], double, rtol=1e-5)
  for seed in range(8):
    orders = pcgrad.drawn_orders(1, 4, seed)[0]
    expected = pcgrad.surgery(SIXTEEN, orders).sum(axis=0)
    np.testing.assert_allclose(double[seed], expected, rtol=RTOL)
