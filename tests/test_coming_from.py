"""The pages for those who come from elsewhere: their code runs, as it is there.

jinns and metaworld-algorithms are not installed here. What the pages import
from them is one class each, of which a stand-in is enough.
"""

import dataclasses
import pathlib
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training import train_state

import optax_mtl

DOCS = pathlib.Path(__file__).parents[1] / "docs"

pytestmark = pytest.mark.as_users


def page(name):
  """All of a page's Python as one program: the names that it defines."""
  text = (DOCS / f"from_{name}.md").read_text(encoding="utf-8")
  blocks = re.findall(r"(?ms)^```python\n(.*?)^```", text)
  # A module, since dataclasses look their own up.
  module = types.ModuleType(f"page_from_{name}")
  sys.modules[module.__name__] = module
  try:
    exec("\n".join(blocks), vars(module))
  finally:
    del sys.modules[module.__name__]
  return module


def stand_in(monkeypatch, name, **members):
  """A module of that name, and the packages above it."""
  parts = name.split(".")
  for count in range(1, len(parts) + 1):
    path = ".".join(parts[:count])
    monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
  vars(sys.modules[name]).update(members)


def test_jaxpi():
  """Its train state and step, with the rule that the page puts there."""
  code = page("jaxpi")

  class Model:
    def losses(self, params, batch):
      # Gradients of lengths 3 and 4, whatever the params are.
      return {"ics": 3 * params["w"][0], "res": 4 * batch * params["w"][1]}

  params = {"w": jnp.zeros(2)}
  state = train_state.TrainState.create(
    apply_fn=None,
    params=params,
    tx=code.with_grad_norm(optax.sgd(1.0), num_losses=2),
  )
  # One device, as `pmap` sees it.
  step = jax.jit(
    jax.vmap(
      lambda state, batch: code.step(Model(), state, batch), axis_name="batch"
    )
  )
  state = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], state)
  found = []
  for _ in range(3):
    state = step(state, jnp.ones(1))
    found.append(np.asarray(code.weights_of(state))[0])
  # The first step has its weights, the next refreshes, and the third keeps.
  refreshed = 0.9 + 0.1 * 3.5 / np.array([3.0, 4.0])
  # A few roundings of float32.
  np.testing.assert_allclose(found[0], [1.0, 1.0], rtol=1e-6)
  np.testing.assert_allclose(found[1], refreshed, rtol=1e-6)
  np.testing.assert_allclose(found[2], refreshed, rtol=1e-6)
  moved = -np.array([3.0, 4.0]) * (1 + 2 * refreshed)
  np.testing.assert_allclose(state.params["w"][0], moved, rtol=1e-6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Params:
  """Params of jinns: of the network, and of the equation."""

  nn_params: jax.Array
  eq_params: jax.Array


def test_jinns(monkeypatch):
  """The functions that jinns calls, and the optimizer that it is given."""
  stand_in(monkeypatch, "jinns.parameters", Params=Params)
  code = page("jinns")
  assert all(f.__name__.startswith("get_") for f in code.extra_args.values())
  assert not any(f.__closure__ for f in code.extra_args.values())
  # One term is a tuple there, of which each entry is a loss.
  terms = {
    "boundary_loss": Params(jnp.array([0.0, 4.0]), jnp.zeros(1)),
    "dyn_loss": (Params(jnp.array([3.0, 0.0]), jnp.zeros(1)),),
  }
  grads = code.get_task_gradients(terms)
  assert grads.nn_params.tolist() == [[0.0, 4.0], [3.0, 0.0]]
  losses = code.get_losses({"boundary_loss": jnp.ones(()), "dyn_loss": (2.0,)})
  assert losses.tolist() == [1.0, 2.0]
  params = Params(jnp.zeros(2), jnp.zeros(1))
  method = optax_mtl.norm_balance(num_tasks=2)
  tx = code.optimizer(method, optax.sgd(1.0))
  summed = jax.tree.map(lambda leaf: leaf.sum(axis=0), grads)
  updates, state = tx.update(
    summed, tx.init(params), params, task_grads=grads, losses=losses
  )
  np.testing.assert_allclose(updates.nn_params, [-3.5, -3.5], rtol=1e-6)
  weights = optax.tree.get(state, "weights")
  np.testing.assert_allclose(weights, 3.5 / np.array([4.0, 3.0]), rtol=1e-6)


def test_metaworld(monkeypatch):
  """The config's optimizer, called as MTSAC calls it."""

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class OptimizerConfig:
    max_grad_norm: float | None = None

    def spawn(self):
      return optax.chain(
        optax.clip_by_global_norm(self.max_grad_norm), optax.sgd(1.0)
      )

  name = "metaworld_algorithms.config.optim"
  stand_in(monkeypatch, name, OptimizerConfig=OptimizerConfig)
  code = page("metaworld")
  assert code.optimizer.requires_split_task_losses
  extra = {"task_losses": jnp.ones(2), "key": jax.random.key(0)}
  grads = jnp.array([[0.3, 0.0], [-0.3, 0.3]])
  for method in (code.pcgrad, optax_mtl.uncertainty_weighting):
    config = dataclasses.replace(code.optimizer, num_tasks=2, method=method)
    tx = config.spawn()
    updates, _ = tx.update(grads, tx.init(jnp.zeros(2)), jnp.zeros(2), **extra)
    if method is code.pcgrad:
      # (0.15, 0.15) is what is left of the first, (0, 0.3) of the second.
      np.testing.assert_allclose(updates, [-0.075, -0.225], rtol=1e-6)


def run(tx, grads, **extra):
  """Updates and weights of all steps; extra args [steps, ...]."""
  update = jax.jit(tx.update)
  state = tx.init(jnp.zeros(grads.shape[-1]))
  updates, weights = [], []
  for step, grad in enumerate(grads):
    given = {key: jnp.asarray(value[step]) for key, value in extra.items()}
    update_, state = update(jnp.asarray(grad), state, **given)
    updates.append(update_)
    weights.append(state.weights)
  return np.stack(updates), np.stack(weights)


def test_pcgrad_of_two_tasks_is_metaworlds():
  """Their loop, in any of its orders: with two tasks there is none."""
  rng = np.random.default_rng(0)
  grads = rng.standard_normal((20, 2, 3))
  expected = []
  for g in grads:
    rows = []
    for row in g:
      for other in g:
        share = row @ other / (other @ other + 1e-8)
        row = row - min(share, 0) * other
      rows.append(row)
    expected.append(np.mean(rows, axis=0))
  assert any(g[0] @ g[1] < 0 for g in grads)
  assert any(g[0] @ g[1] > 0 for g in grads)
  with jax.enable_x64(True):
    updates, _ = run(optax_mtl.pcgrad(2, reduction="mean"), grads)
  # Their 1e-8 beside squared norms of about 3, not below a tenth.
  np.testing.assert_allclose(updates, expected, atol=1e-6)


def test_soft_adapt_of_jinns_is_dwa_a_step_earlier():
  rng = np.random.default_rng(1)
  losses = np.exp(rng.standard_normal((6, 3)))
  theirs = []
  for last, now in zip(losses[:-1], losses[1:], strict=True):
    powers = np.exp(now / (last + 1e-6))
    theirs.append(powers / powers.sum())
  with jax.enable_x64(True):
    tx = optax_mtl.dwa(3, 1.0, steps_per_epoch=1)
    _, weights = run(tx, np.ones((6, 3, 2)), losses=losses)
  # Their 1e-6 beside losses of a tenth and more, in ratios of up to ten.
  np.testing.assert_allclose(weights[2:], 3 * np.array(theirs[:-1]), rtol=2e-3)


def test_annealing_of_jinns():
  """Where no signs cancel in its mean, and with its choices, it is ours."""
  rng = np.random.default_rng(2)
  grads = np.abs(rng.standard_normal((5, 3, 4))) + 0.1
  weights, expected = np.ones(3), []
  for g in grads:
    new = g[0].max() / (abs(g[1:].mean(axis=1)) + 1e-6)
    weights = np.array([1.0, *(0.1 * weights[1:] + 0.9 * new)])
    expected.append(weights)
  with jax.enable_x64(True):
    tx = optax_mtl.lr_annealing(3, relative=False, decay=0.1)
    _, found = run(tx, grads)
  # Their 1e-6 beside means above a tenth.
  np.testing.assert_allclose(found, expected, rtol=1e-5)
