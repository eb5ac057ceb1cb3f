"""The tasks' names are carried, compared, and shown where they differ."""

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_mtl

GRADS = jnp.eye(3)
LOSSES = {"bc": 1.0, "ic": 2.0, "pde": 4.0}


def as_arrays(extra):
  return {
    k: {n: jnp.asarray(x) for n, x in v.items()} if isinstance(v, dict) else v
    for k, v in extra.items()
  }


def update(tx, grads=GRADS, **extra):
  """One update's weights."""
  _, state = tx.update(grads, tx.init(jnp.zeros(3)), **as_arrays(extra))
  return np.asarray(state.weights)


def program(tx, **extra):
  """One update as a program, and the constants in it."""
  jaxpr = jax.make_jaxpr(
    lambda extra: tx.update(GRADS, tx.init(jnp.zeros(3)), **extra)
  )(as_arrays(extra))
  return harness.as_text(jaxpr), jaxpr.consts


#: Each argument with one value a task, as a dict and in the rows' order.
BY_NAME = {
  "fixed_weighting": (
    lambda weights: optax_mtl.fixed_weighting(3, weights),
    [5.0, 10.0, 1.0],
  ),
  "uncertainty_weighting, kind": (
    lambda kind: optax_mtl.uncertainty_weighting(3, kind),
    ["regression", "classification", "classification"],
  ),
  "uncertainty_weighting, initial_log_vars": (
    lambda s: optax_mtl.uncertainty_weighting(3, initial_log_vars=s),
    [0.0, 1.0, 2.0],
  ),
  "dtp": (lambda gamma: optax_mtl.dtp(3, gamma), [0.5, 1.0, 2.0]),
  "gradnorm": (
    lambda first: optax_mtl.gradnorm(3, initial_losses=first),
    [1.0, 2.0, 3.0],
  ),
  "imtl_l": (
    lambda s: optax_mtl.imtl_l(3, initial_log_scales=s),
    [0.0, 1.0, 2.0],
  ),
  "stch, preference": (lambda p: optax_mtl.stch(3, p), [1.0, 2.0, 3.0]),
  "stch, ideal": (lambda z: optax_mtl.stch(3, ideal=z), [0.1, 0.2, 0.3]),
  "famo": (lambda low: optax_mtl.famo(3, min_losses=low), [0.1, 0.2, 0.3]),
  "refresh_every": (
    lambda first: optax_mtl.refresh_every(
      optax_mtl.dwa(3, steps_per_epoch=1), 2, first=1, initial_weights=first
    ),
    [1.0, 2.0, 3.0],
  ),
  "upgrad": (lambda p: optax_mtl.upgrad(3, p), [1.0, 2.0, 3.0]),
  "dual_proj": (lambda p: optax_mtl.dual_proj(3, p), [1.0, 2.0, 3.0]),
  "aligned_mtl": (lambda p: optax_mtl.aligned_mtl(3, p), [1.0, 2.0, 3.0]),
}
every_argument = pytest.mark.parametrize("what", BY_NAME)


@every_argument
def test_by_name_is_in_the_order_of_the_rows(what):
  """The rows are in the order of the sorted names, whatever the dict's."""
  build, values = BY_NAME[what]
  named = dict(zip(("bc", "ic", "pde"), values, strict=True))
  shuffled = {name: named[name] for name in ("pde", "bc", "ic")}
  kpis = jnp.array([0.3, 0.5, 0.7])
  by_name = program(build(shuffled), losses=LOSSES, kpis=kpis)
  in_order = program(build(values), losses=LOSSES, kpis=kpis)
  assert by_name[0] == in_order[0]
  chex.assert_trees_all_equal(by_name[1], in_order[1])
  other = program(build(values[::-1]), losses=LOSSES, kpis=kpis)
  assert any(
    np.not_equal(a, b).any() for a, b in zip(other[1], in_order[1], strict=True)
  ), "the values are not among the constants: nothing was compared"


@every_argument
def test_other_names_are_refused(what):
  """With both lists, so that a user sees which is which."""
  build, values = BY_NAME[what]
  other = dict(zip(("boundary", "equation", "initial"), values, strict=True))
  with pytest.raises(ValueError) as error:
    program(build(other), losses=LOSSES, kpis=jnp.ones(3))
  message = str(error.value)
  assert "boundary, equation, initial" in message
  assert "bc, ic, pde" in message
  assert what.split(",")[0] in message


@every_argument
def test_by_name_needs_names_to_compare_with(what):
  build, values = BY_NAME[what]
  named = dict(zip(("bc", "ic", "pde"), values, strict=True))
  with pytest.raises(ValueError, match="no names to compare .*losses= as the"):
    program(build(named), losses=jnp.ones(3), kpis=jnp.ones(3))


def test_the_kind_of_each_task():
  """Kendall's classification tasks weigh 1, the regressions 1/2."""
  kind = {"pde": "regression", "bc": "classification", "ic": "regression"}
  tx = optax_mtl.uncertainty_weighting(3, kind)
  np.testing.assert_array_equal(update(tx, losses=LOSSES), [1.0, 0.5, 0.5])


def test_extra_args_are_compared():
  tx = optax_mtl.dtp(3)
  with pytest.raises(ValueError) as error:
    update(tx, losses=LOSSES, kpis={"boundary": 0.1, "ic": 0.2, "pde": 0.3})
  assert "bc, ic, pde in losses=" in str(error.value)
  assert "boundary, ic, pde in kpis=" in str(error.value)
  with pytest.raises(ValueError, match="different names.*active="):
    active = {"a": jnp.array(True), "b": jnp.array(True), "c": jnp.array(True)}
    tx.update(
      GRADS,
      tx.init(jnp.zeros(3)),
      active=active,
      kpis={n: jnp.asarray(0.5) for n in LOSSES},
    )


def test_the_order_is_by_name():
  """`t10` comes before `t2`: as JAX sorts what a jitted function returns."""
  losses = {"t2": jnp.asarray(2.0), "t10": jnp.asarray(10.0)}
  tx = optax_mtl.fixed_weighting(2, {"t2": 2.0, "t10": 10.0})
  _, state = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), losses=losses)
  np.testing.assert_array_equal(state.weights, [10.0, 2.0])


def test_names_that_a_source_carries():
  """They count where the update's extra args have none."""
  grads = optax_mtl.sources.as_task_gradients(GRADS, 3)
  grads.names = ("bc", "ic", "pde")
  weights = {"bc": 5.0, "ic": 10.0, "pde": 1.0}
  tx = optax_mtl.fixed_weighting(3, weights)
  np.testing.assert_array_equal(update(tx, grads), [5.0, 10.0, 1.0])
  with pytest.raises(ValueError, match="different names"):
    update(tx, grads, losses={"a": 1.0, "b": 1.0, "c": 1.0})
