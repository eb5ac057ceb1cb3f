"""Wrappers nest in any order, around any method."""

import itertools

import chex
import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl
from optax_mtl._transformation import View
from optax_mtl.wrappers._wrapped import seen_through

T = harness.NUM_TASKS

WRAPPERS = {
  "trunk": lambda tx: optax_mtl.on_trunk(tx, harness.SHARED),
  "drop": optax_mtl.drop_nonfinite,
  "refresh": lambda tx: optax_mtl.refresh_every(tx, 2),
  "ema": lambda tx: optax_mtl.ema_weights(tx, 0.5),
  "skip": optax_mtl.skip_nonfinite,
  "track": lambda tx: optax_mtl.track(tx, 3),
}


def wrapped(method, order):
  """The method, in wrappers from the inside out."""
  for name in order:
    method = WRAPPERS[name](method)
  return method


def diagonal(num_tasks):
  """A rule that compiles in no time and needs what wrappers change."""
  del num_tasks
  return optax_mtl.from_step(
    lambda step: jnp.sqrt(jnp.diagonal(step.gram())) * step.losses
  )


def test_orders_build_the_same_types():
  """The updates, and a state that does not change its type.

  All 720 orders are built; a seventh is traced, each wrapper in each place.
  """
  method = harness.registered(diagonal)(T)
  data = harness.to_dtype(harness.data(num_steps=1), "float32")
  row, params = harness.row_of(data, 0), harness.params()
  like = harness.signature(jax.eval_shape(lambda: params))
  txs = {o: wrapped(method, o) for o in itertools.permutations(WRAPPERS)}
  for order, tx in list(txs.items())[::7]:
    state, updates, new_state = harness.traced(tx, row, params)
    assert harness.signature(updates) == like, order
    assert harness.signature(state) == harness.signature(new_state), order


def orders():
  """Each pair both ways round, and each triple of neighbours about once."""
  some = list(itertools.permutations(WRAPPERS))
  chosen = [some[i] for i in np.random.default_rng(4).choice(720, 6, False)]
  return chosen + [order[::-1] for order in chosen]


@pytest.mark.parametrize("order", ["refresh first", "ema first"])
def test_the_order_does_not_matter(order):
  """Updates, weights and skipped steps are the same, to rounding.

  But for the one order that has a meaning: an average of kept weights, or kept
  averages. One task is NaN for two steps, and inf for another, so that dropping
  and skipping have something to do; all are NaN in one step.
  """
  method = harness.registered(diagonal)(T)
  first, last = ("refresh", "ema") if "refresh" in order else ("ema", "refresh")
  mine = [o for o in orders() if o.index(first) < o.index(last)]
  assert len(mine) == 6
  data = harness.data(num_steps=12)
  where = np.zeros((12, T), bool)
  where[4:6, 1] = True
  data = harness.spoilt(data, where, np.nan)
  where[:] = False
  where[8, 2] = True
  data = harness.spoilt(data, where, np.inf)
  where[:] = False
  where[10] = True
  data = harness.spoilt(data, where, np.nan)
  data = harness.to_dtype(data, "float32")
  txs = [wrapped(method, o) for o in mine]
  outputs = jax.jit(
    lambda d: [harness.steps(tx, harness.params(), d) for tx in txs]
  )(data)
  updates = [harness.flat(u, 1) for u, _ in outputs]
  weights = [np.asarray(optax.tree.get(s, "weights")) for _, s in outputs]
  assert np.isfinite(updates[0]).all()
  assert (weights[0][4:6, 1] == 0).all() and (weights[0][8, 2] == 0).all()
  assert (updates[0][10] == 0).all()
  for o, update, weight, (_, state) in zip(
    mine, updates, weights, outputs, strict=True
  ):
    assert int(optax.tree.get(state, "skipped_total")[-1]) == 0, o
    # The same sums, which one program may compute in two ways.
    harness.assert_close(update, updates[0], 20.0, 1e-5, str(o))
    harness.assert_close(weight, weights[0], 20.0, 1e-5, str(o))


#: Wrappers that came later, each tried with all others in both orders; those
#: that translate arguments are in `test_translators.py`.
LATER = {
  "logs": optax_mtl.log_losses,
  "unit": optax_mtl.normalize_gradients,
  "tasks": lambda tx: optax_mtl.on_tasks(tx, [0, 2], 3.0),
}
#: Here the order has a meaning: weights on divided gradients are kept, averaged
#: or fixed, or those on the gradients as they came.
ORDERED = [{"unit", other} for other in ("refresh", "ema", "tasks")]
PAIRS = [
  (later, other)
  for later in LATER
  for other in WRAPPERS | LATER
  if later != other and {later, other} not in ORDERED
]


@pytest.mark.parametrize("later, other", PAIRS)
def test_the_order_of_two_does_not_matter(later, other):
  """Two steps, operation by operation, with and without a task."""
  method, every = harness.registered(diagonal)(T), WRAPPERS | LATER
  everyone, data = (
    harness.to_dtype(harness.cases()[case], "float32")
    for case in ("base", "absent")
  )
  params, outputs = harness.params(), []
  for inner, outer in ((later, other), (other, later)):
    tx = every[outer](every[inner](method))
    state, found = tx.init(params), []
    # In the first step all are there: a task that is absent when weights are
    # refreshed has none until the next time, which a fixed one does not mind.
    for row in (harness.row_of(everyone, 0), harness.row_of(data, 2)):
      updates, state = tx.update(
        row.grads, state, params, losses=row.extra["losses"], active=row.active
      )
      found.append((updates, optax.tree.get(state, "weights")))
    outputs.append(found)
  # Products and quotients in another order.
  chex.assert_trees_all_close(*outputs, rtol=1e-5, atol=1e-6)


def test_the_outer_wrapper_looks_first():
  """What it makes of the arguments is what the inner one gets."""
  seen = []

  def view(name):
    def look(gradients, active, extra_args):
      seen.append((name, active))
      return gradients, jnp.array([name == "outer", True])

    return View(look)

  tx = optax_mtl.equal_weighting(2)
  tx = seen_through(
    seen_through(tx, view("inner"), "inner"), view("outer"), "outer"
  )
  tx.update(jnp.eye(2), tx.init(jnp.zeros(2)))
  assert [name for name, _ in seen] == ["outer", "inner"]
  assert seen[0][1] is None
  np.testing.assert_array_equal(seen[1][1], [True, True])


@pytest.mark.parametrize("name", harness.every_kind)
def test_every_wrapper_takes_every_kind_of_rule(name):
  """Alone, around a chain, before it, and around another wrapper."""
  method = harness.build(name)
  chain = optax.chain(method, optax.sgd(0.1))
  outer = [
    optax_mtl.accumulate(optax_mtl.track(method), T, 2),
    optax_mtl.accumulate(chain, T, 2),
    optax_mtl.skip_nonfinite(chain),
    optax_mtl.drop_nonfinite(optax_mtl.on_trunk(chain, harness.SHARED)),
    optax.chain(optax_mtl.per_task(optax.clip_by_global_norm(1.0), T), method),
  ]
  outer += [
    optax_mtl.from_extra_arg(optax_mtl.rename_args(chain, losses="losses")),
    optax_mtl.log_losses(chain),
    optax_mtl.weighted_then(harness.build("dwa"), optax_mtl.track(method)),
  ]
  if name in harness.weighing_kinds:
    outer += [
      wrapped(method, WRAPPERS),
      optax_mtl.on_tasks(optax_mtl.skip_nonfinite(method), [1]),
      optax_mtl.refresh_every(method, lambda step: step < 9, first=2),
      optax_mtl.refresh_every(optax_mtl.accumulate(method, T, 2), 3),
    ]
  row = harness.row_of(
    harness.to_dtype(harness.data(num_steps=1), "float32"), 0
  )
  params = harness.params()
  like = harness.signature(jax.eval_shape(lambda: params))
  for tx in outer:
    state, updates, new_state = harness.traced(
      optax.with_extra_args_support(tx), row, params, grads=row.grads
    )
    assert harness.signature(updates) == like
    assert harness.signature(state) == harness.signature(new_state)
    if name in harness.weighing_kinds:
      assert optax.tree.get(state, "weights").shape == (T,)
