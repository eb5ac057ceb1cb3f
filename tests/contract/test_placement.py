"""What stands inside of what: a method where there must be none, or none."""

import jax.numpy as jnp
import optax
import pytest

import optax_mtl

# optax mixes dtypes.
pytestmark = pytest.mark.standard_promotion
PARAMS, GRADS = jnp.zeros(2), jnp.eye(2)


def mgda():
  return optax_mtl.mgda(2)


def in_a_chain():
  return optax.chain(optax_mtl.mgda(2), optax.sgd(0.1))


METHODS = {
  "a method": mgda,
  "a wrapped method": lambda: optax_mtl.skip_nonfinite(mgda()),
  "a chain": in_a_chain,
  "a wrapped chain": lambda: optax_mtl.accumulate(in_a_chain(), 2, 2),
  "hyperparameters": lambda: optax.inject_hyperparams(
    optax_mtl.mgda, static_args="num_tasks"
  )(2, drop_stationary=0.1),
}

#: What gives a transformation one gradient, or one number, a task.
ONE_BY_ONE = {
  "per_task": (
    lambda tx: optax_mtl.per_task(tx, 2),
    "mgda combines .* inside of per_task.*Put it after: optax.chain",
  ),
  **{
    name: (
      lambda tx, name=name: optax_mtl.METHODS[name](2, optimizer=tx),
      "mgda combines .* optimizer= is what learns one number a task",
    )
    for name in ("famo", "gradnorm", "uncertainty_weighting")
  },
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrapper", ONE_BY_ONE)
def test_a_method_that_would_see_one_task(wrapper, method):
  """Accepted, it would take the first axis of a param for that of the tasks."""
  around, message = ONE_BY_ONE[wrapper]
  with pytest.raises(TypeError, match=message):
    around(METHODS[method]()).init(PARAMS)


def test_a_method_that_would_see_one_task_is_refused_when_built():
  with pytest.raises(TypeError, match="bloop combines"):
    optax_mtl.per_task(optax_mtl.bloop(2), 2)


#: What gives gradients of several tasks to what it is around.
AROUND = {
  "accumulate": lambda tx: optax_mtl.accumulate(tx, 2, 2),
  "drop_nonfinite": optax_mtl.drop_nonfinite,
  "log_losses": optax_mtl.log_losses,
  "on_trunk": lambda tx: optax_mtl.on_trunk(tx, True),
}


@pytest.mark.parametrize("wrapper", AROUND)
def test_a_wrapper_that_needs_a_method(wrapper):
  """Around an optimizer it is an error; around all that holds a method not."""
  with pytest.raises(
    TypeError, match=f"{wrapper} goes around a method .*{wrapper}.*no method"
  ):
    AROUND[wrapper](optax.adam(0.1)).init(PARAMS)
  for make in METHODS.values():
    AROUND[wrapper](make()).init(PARAMS)


#: What may also follow a method in a chain.
ANYWHERE = {
  "skip_nonfinite": (optax_mtl.skip_nonfinite, {}),
  "from_extra_arg": (optax_mtl.from_extra_arg, {"grads": GRADS}),
}


@pytest.mark.parametrize("wrapper", ANYWHERE)
def test_stacked_gradients_that_no_method_combines(wrapper):
  """Their updates would broadcast the params to [T, ...] in silence."""
  around, extra = ANYWHERE[wrapper]
  tx = around(optax.sgd(0.1))
  with pytest.raises(
    TypeError, match=f"{wrapper} was given stacked .* holds no method"
  ):
    tx.update(GRADS, tx.init(PARAMS), PARAMS, **extra)
  # Rows for a method that comes later are meant, and so is a summed gradient.
  rows = around(optax_mtl.per_task(optax.sgd(1.0), 2))
  updates, _ = rows.update(GRADS, rows.init(PARAMS), PARAMS, **extra)
  assert updates.tolist() == (-GRADS).tolist()


def test_what_skips_a_step_may_follow_a_method():
  tx = optax.chain(mgda(), optax_mtl.skip_nonfinite(optax.sgd(1.0)))
  updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  assert updates.tolist() == [-0.5, -0.5]


def test_rows_that_were_accumulated_are_transformed_one_by_one():
  """`accumulate` hands on stacked gradients that know their names."""
  tx = optax_mtl.accumulate(
    optax.chain(
      optax_mtl.per_task(optax.scale(2.0), 2), optax_mtl.equal_weighting(2)
    ),
    2,
    1,
  )
  updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  assert updates.tolist() == [2.0, 2.0]
  trunk = optax_mtl.on_trunk(
    optax.chain(optax_mtl.per_task(optax.scale(2.0), 2), mgda()),
    {"a": True, "b": False},
  )
  params = {"a": PARAMS, "b": PARAMS}
  grads = {"a": GRADS, "b": GRADS}
  with pytest.raises(TypeError, match="per_task .* not of all leaves"):
    trunk.update(grads, trunk.init(params), params)
