"""Inverse norms: the sheet's values, and six projects' loops step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from one_step import close, together

import optax_mtl
from optax_mtl import NORM_BALANCE_SETTINGS as SETTINGS

STEPS, T, P = 6, 3, 4


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def build(num_tasks=T, setting=None, **arguments):
  """The method with a project's arguments, some replaced."""
  known = {} if setting is None else SETTINGS[setting]
  return optax_mtl.norm_balance(num_tasks, **(dict(known) | arguments))


def gradients():
  """Random gradients [STEPS, T, P] of sizes that differ and change."""
  rng = np.random.default_rng(3)
  sizes = np.exp(rng.standard_normal((STEPS, T, 1)) + [[[0], [2], [-3]]])
  return sizes * rng.standard_normal((STEPS, T, P))


# The sheet's values: a reference or a setting -> norms and weights.
ORACLES = {
  "mean": (build(), [7 / 3, 7 / 6, 7 / 12]),
  "max": (build(reference="max"), [4, 2, 1]),
  "geometric mean": (build(reference="geometric_mean"), [2, 1, 0.5]),
  "root sum square": (
    build(reference="root_sum_square"),
    np.sqrt(21) / np.array([1, 2, 4]),
  ),
  "a row": (build(reference=1), [2, 1, 0.5]),
  "one": (build(reference="one"), [1, 0.5, 0.25]),
  "half the power": (build(reference=0, power=0.5), 1 / np.sqrt([1, 2, 4])),
  "no power": (build(power=0.0), [1, 1, 1]),
  "equal fractions": (build(setting="encodec"), [1 / 3, 1 / 6, 1 / 12]),
  "all in one": (build(setting="encodec", coefficients=[0, 2, 0]), [0, 0.5, 0]),
  "relaxed": (build(reference=1, relax=0.7), [1.7, 1, 0.65]),
  "shorter": (build(ratio_bounds=(0, 1)), [1, 1, 7 / 12]),
  "longer": (build(ratio_bounds=(1, np.inf)), [7 / 3, 7 / 6, 1]),
  "times T": (build(scale="num_tasks"), [7, 3.5, 1.75]),
  "from weights": (
    build(decay=0.9, initial_weights=[1, 2, 3]),
    0.9 * np.array([1, 2, 3]) + 0.1 * 7 / 3 / np.array([1, 2, 4]),
  ),
}


def test_values():
  grads = np.diag([1.0, 2.0, 4.0])[None]
  found = together({k: tx for k, (tx, _) in ORACLES.items()}, grads)
  for name, (_, expected) in ORACLES.items():
    close(found[name][1].weights[0], expected, 1e-13, 1e-300)


# The projects' loops, each from its formula: gradients [STEPS, T, P] -> updates
# [STEPS, P].
def jaxpi(grads):
  """Refreshed at every second step here, the first time after step 0."""
  weights, out = np.ones(T), []
  for step, g in enumerate(grads):
    if step % 2 == 1:
      norms = np.linalg.norm(g, axis=1)
      weights = 0.9 * weights + 0.1 * np.mean(norms) / norms
    out.append(weights @ g)
  return out


def ntkmtl(grads):
  out = []
  for g in grads:
    gram = g @ g.T
    update = T * np.sqrt(np.trace(gram) / np.diag(gram)) @ g
    out.append(update * min(1, 1 / np.linalg.norm(update)))
  return out


FRACTIONS = np.array([1.0, 4.0, 0.5])


def encodec(grads):
  total, count, out = np.zeros(T), 0.0, []
  for g in grads:
    total = 0.999 * total + np.linalg.norm(g, axis=1)
    count = 0.999 * count + 1
    out.append(FRACTIONS / FRACTIONS.sum() / (total / count) @ g)
  return out


def vqgan(grads):
  """The last two entries are the last layer; row 1 is the reconstruction."""
  out = []
  for g in grads:
    norms = np.linalg.norm(g[:, 2:], axis=1)
    out.append(np.clip(norms[1] / norms, 0, 1e4) * [0.75, 1, 0.75] @ g)
  return out


def metabalance(grads):
  averages, out = np.zeros((P, T)), []
  for g in grads:
    update = np.zeros(P)
    for p in range(P):  # each entry is a leaf
      for i in range(T):
        averages[p, i] = 0.9 * averages[p, i] + 0.1 * abs(g[i, p])
        balanced = averages[p, 0] * g[i, p] / averages[p, i]
        update[p] += 0.7 * balanced + 0.3 * g[i, p]
    out.append(update)
  return out


def db_mtl(grads):
  buffers, out = np.zeros((T, P)), []
  for g in grads:
    buffers = g + 0.9 * (buffers - g)
    norms = np.linalg.norm(buffers, axis=1)
    out.append(norms.max() / norms @ buffers)
  return out


def last_layer(params):
  return [p >= 2 for p in range(len(params))]


PROJECTS = {
  "jaxpi": (
    optax_mtl.refresh_every(build(setting="jaxpi"), 2, first=1),
    jaxpi,
  ),
  "ntkmtl": (build(setting="ntkmtl"), ntkmtl),
  "encodec": (build(setting="encodec", coefficients=FRACTIONS), encodec),
  "vqgan": (
    build(
      setting="vqgan",
      reference=1,
      coefficients=[0.75, 1.0, 0.75],
      norm_params=last_layer,
    ),
    vqgan,
  ),
  "metabalance": (build(setting="metabalance"), metabalance),
  "db_mtl": (
    optax.chain(
      optax_mtl.per_task(optax.ema(0.9, debias=False), T),
      build(setting="db_mtl"),
    ),
    db_mtl,
  ),
}


@pytest.mark.standard_promotion  # optax.ema mixes dtypes.
def test_projects():
  """All updates of all six, and no setting that is none of them."""
  assert set(PROJECTS) == set(SETTINGS)
  grads = gradients()
  # Leaf by leaf, for those that choose among leaves.
  leaves = [grads[:, :, p] for p in range(P)]
  found = together({k: tx for k, (tx, _) in PROJECTS.items()}, leaves)
  for name, (_, loop) in PROJECTS.items():
    updates = np.stack(found[name][0], axis=1)
    expected = np.stack(loop(grads))
    size = np.abs(expected).max(axis=1, keepdims=True)
    # A few roundings of terms that cancel to a hundredth of their size.
    assert (abs(updates - expected) <= 1e-12 * size).all(), name


def test_at_the_output_of_a_model():
  """EnCodec's balancer: norms at the output, one pass through the model."""
  x, params = jnp.array([1.0, 2.0]), {"w": jnp.array([3.0, -1.0])}

  def losses(params, output):
    return {"l1": 5 * jnp.sum(output), "l2": jnp.sum(output**2) / 2}

  source = optax_mtl.value_and_representation_grads(
    lambda params: params["w"] * x, losses
  )
  values, grads = source(params)
  tx = build(2, "encodec", coefficients={"l2": 3.0, "l1": 1.0})
  updates, state = tx.update(grads, tx.init(params), params, losses=values)
  output = np.array([3.0, -2.0])
  expected = np.array([0.25 / (5 * np.sqrt(2)), 0.75 / np.linalg.norm(output)])
  close(state.weights, expected, 1e-13)
  close(updates["w"], np.asarray(x) * (expected[0] * 5 + expected[1] * output))


def test_zero_and_absent():
  """Weight 0, no part in the reference, and an average that stands still."""
  grads = np.stack([np.diag([1.0, 2.0, 4.0])] * 3)
  grads[1, 2] = 0.0
  active = np.ones((3, 3), bool)
  active[1, 0] = False
  txs = {
    "weights": build(decay=0.5, initial_weights=1.0),
    "norms": build(decay=0.5, average="norms"),
    "row": build(reference=0),
    "root sum square": build(reference="root_sum_square"),
    "geometric mean": build(reference="geometric_mean"),
  }
  found = {k: v[1] for k, v in together(txs, grads, active=active).items()}
  weights = {k: np.asarray(v.weights) for k, v in found.items()}
  first, ratios = np.ones(3), 7 / 3 / np.array([1, 2, 4])
  first = (first + ratios) / 2
  close(weights["weights"][0], first)
  # Task 1 is alone: its ratio is 1.
  close(weights["weights"][1], [0, (first[1] + 1) / 2, 0])
  close(
    weights["weights"][2],
    (np.array([first[0], (first[1] + 1) / 2, first[2]]) + ratios) / 2,
  )
  # The zero enters the average of the norms: debiased, a third of 4 is left.
  close(weights["norms"][1], [0, (2 + 4 / 3) / 2 / 2, (2 + 4 / 3) / 2 * 3 / 4])
  # Without the reference's task there is nothing to compare with.
  close(weights["row"], [[1, 1 / 2, 1 / 4], [0, 1, 0], [1, 1 / 2, 1 / 4]])
  for name in ("root sum square", "geometric mean"):
    close(weights[name][1], [0, 1, 0])


def test_the_direction_does_not_know_the_losses_units():
  """With a fixed reference the update does not change; else its length does."""
  grads = gradients()
  txs = {"one": build(reference="one"), "mean": build()}
  base = together(txs, grads)
  scaled = together(txs, grads * np.array([[1e3], [1.0], [1e-7]]))
  close(scaled["one"][0], base["one"][0], 1e-12)
  old, new = np.asarray(base["mean"][0]), np.asarray(scaled["mean"][0])
  lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (old, new)]
  close(new / lengths[1], old / lengths[0], 1e-12)


def test_a_task_by_name():
  grads = jnp.eye(2) * jnp.array([[3.0], [1.0]])
  losses = {"gan": jnp.ones(()), "nll": jnp.ones(())}
  tx = build(2, reference="nll")
  _, state = tx.update(grads, tx.init(jnp.ones(2)), losses=losses)
  close(state.weights, [1 / 3, 1.0])
  with pytest.raises(
    ValueError, match="'nil', but the tasks are gan, nll, .*m"
  ):
    build(2, reference="nil").update(grads, state, losses=losses)
  with pytest.raises(ValueError, match="no names to compare .* losses= as the"):
    tx.update(grads, state)


@pytest.mark.parametrize(
  "arguments, error, message",
  [
    ({"reference": 3}, ValueError, "one of the 3 tasks, 0 to 2; got 3"),
    ({"reference": -1}, ValueError, "0 to 2; got -1"),
    ({"reference": 1.0}, TypeError, "reference must be the index"),
    ({"power": -1.0}, ValueError, "power must lie in"),
    ({"relax": 1.5}, ValueError, "relax must lie in"),
    ({"decay": 1.0}, ValueError, "decay must lie in"),
    ({"scale": "T"}, ValueError, "scale must be one of 'num_tasks'"),
    ({"scale": -1.0}, ValueError, "scale must lie in"),
    ({"average": "both"}, ValueError, "average must be one of 'weights'"),
    ({"ratio_bounds": (2.0, 1.0)}, ValueError, "0 <= low <= high"),
    ({"ratio_bounds": 1.0}, ValueError, "0 <= low <= high, got 1.0"),
    (
      {"average": "norms", "initial_weights": 1.0},
      ValueError,
      "average='norms' averages the norms",
    ),
    ({"by_leaf": True, "max_norm": 1.0}, ValueError, "Leave them out"),
    ({"coefficients": [1.0]}, ValueError, "one value for each of the 3"),
  ],
)
def test_arguments(arguments, error, message):
  with pytest.raises(error, match=message):
    build(**arguments)
