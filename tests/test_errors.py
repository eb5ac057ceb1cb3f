"""Wrong input is an error while tracing, one that names it and teaches."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl

every_method = pytest.mark.parametrize("name", harness.NAMES)
T = harness.NUM_TASKS


def attempt(tx, grads=None, params="params", **changes):
  """Traces one update with some of its arguments changed; None removes one."""
  data = harness.to_dtype(harness.data(num_steps=1), "float32")
  row = jax.tree.map(lambda leaf: leaf[0], data)
  start = harness.params()
  extra = {k: v for k, v in (row.extra | changes).items() if v is not None}
  return jax.eval_shape(
    lambda g, e: tx.update(
      g, tx.init(start), start if params == "params" else params, **e
    ),
    row.grads if grads is None else grads,
    extra,
  )


def stacked(**changes):
  """Stacked gradients with some leaves replaced by arrays of other shapes."""
  tree = jax.tree.map(lambda p: jnp.zeros((T, *p.shape)), harness.params())
  return tree | {k: jnp.zeros(shape) for k, shape in changes.items()}


@every_method
@pytest.mark.parametrize("shape", [(2,), (), (4, 2), (T, 3)])
def test_a_tree_that_is_not_stacked(name, shape):
  """The leaf, its shape, the shape that it should have, and what to do."""
  with pytest.raises(ValueError, match=r"leaf \['head'\]") as error:
    attempt(harness.build(name), stacked(head=shape))
  message = str(error.value)
  assert str(list(shape)) in message
  assert str(T) in message
  assert "value_and_task_grads" in message and "accumulate" in message


@every_method
def test_without_params_the_task_axis_is_still_checked(name):
  with pytest.raises(ValueError, match=r"leaf \['head'\].*must start with 3"):
    attempt(harness.build(name), stacked(head=(2,)), params=None)


@every_method
def test_another_structure(name):
  grads = stacked()
  del grads["head"]
  with pytest.raises(ValueError, match="differ in structure"):
    attempt(harness.build(name), grads)


def test_a_leaf_that_is_no_array():
  tx = harness.build("equal_weighting")
  with pytest.raises(TypeError, match=r"leaf \['head'\].*str, not an array"):
    tx.update(stacked() | {"head": "text"}, tx.init(harness.params()))


@every_method
def test_a_missing_extra_arg(name):
  """Names the argument, why it is needed, and the call."""
  for need in optax_mtl.METHODS[name].info.needs:
    with pytest.raises(TypeError, match=f"{name} needs {need}=.*: .*") as error:
      attempt(harness.build(name), **{need: None})
    assert f"tx.update(grads, state, params, {need}={need})" in str(error.value)


@every_method
@pytest.mark.parametrize("need", ["losses", "kpis", "preference"])
def test_an_extra_arg_of_the_wrong_shape(name, need):
  if need not in optax_mtl.METHODS[name].info.needs:
    # What a method does not need, it does not look at.
    attempt(harness.build(name), **{need: jnp.zeros((7, 7))})
    return
  with pytest.raises(ValueError, match=f"{need} must hold one value for each"):
    attempt(harness.build(name), **{need: jnp.zeros(T + 1)})
  with pytest.raises(ValueError, match=rf"{need} must have shape .*\[3, 1\]"):
    attempt(harness.build(name), **{need: jnp.zeros((T, 1))})
  with pytest.raises(ValueError, match=rf"{need} must have shape .*\[\]"):
    attempt(harness.build(name), **{need: jnp.zeros(())})


@every_method
def test_active_must_be_bools(name):
  tx = harness.build(name)
  with pytest.raises(TypeError, match="active must be bool, got float32"):
    attempt(tx, active=jnp.ones(T, jnp.float32))
  with pytest.raises(ValueError, match="active must hold one bool for each"):
    attempt(tx, active=jnp.ones(T - 1, bool))


@every_method
@pytest.mark.parametrize("num_tasks", [0, -1, 2.0, "3", None])
def test_num_tasks(name, num_tasks):
  function = optax_mtl.METHODS[name]
  example = function.info.example((0,))
  kind = ValueError if isinstance(num_tasks, int) else TypeError
  with pytest.raises(kind, match="num_tasks must be"):
    function(num_tasks, **example)


@every_method
def test_num_tasks_cannot_be_traced(name):
  function = optax_mtl.METHODS[name]
  with pytest.raises(TypeError, match="static_args=.*num_tasks"):
    jax.eval_shape(
      lambda n: function(n, **function.info.example((0,))).init({}),
      jnp.ones((), jnp.int32),
    )


@every_method
def test_options(name):
  with pytest.raises(ValueError, match="heads must be one of 'sum'"):
    harness.build(name, heads="mean")
  with pytest.raises(ValueError, match="on_nonfinite must be one of"):
    harness.build(name, on_nonfinite="ignore")
  with pytest.raises(ValueError, match="shared= must be a pytree prefix"):
    harness.build(name, shared={"body": True}).init(harness.params())
  with pytest.raises(TypeError, match=r"leaf \['head'\] of shared= is a str"):
    tx = harness.build(name, shared={"head": "no", "trunk": True})
    tx.init(harness.params())
  tx = harness.build(name, shared=lambda p: {k: k == "trunk" for k in p})
  with pytest.raises(ValueError, match="shared= is a callable on the params"):
    attempt(tx, params=None)


@every_method
def test_a_source_of_another_number_of_tasks(name):
  losses = lambda p: jnp.stack([jnp.sum(p), jnp.sum(p)])  # noqa: E731
  _, grads = optax_mtl.value_and_task_grads(losses, source="implicit")(
    jnp.ones(2)
  )
  tx = harness.build(name)
  state = tx.init(jnp.ones(2))
  extra = {k: v[0] for k, v in harness.data(num_steps=1).extra.items()}
  with pytest.raises(ValueError, match="of 2 tasks, but .* num_tasks=3"):
    tx.update(grads, state, **extra)


# Arguments of single methods.
RANGES = [
  ("fixed_weighting", {"weights": [1.0]}, "weights must hold one value"),
  ("fixed_weighting", {"weights": 1.0}, r"weights must have shape"),
  ("equal_weighting", {"reduction": "max"}, "reduction must be one of"),
  ("uncertainty_weighting", {"kind": "rank"}, "kind must be one of"),
  ("uncertainty_weighting", {"kind": ["regression"]}, "one for each of the 3"),
  ("uncertainty_weighting", {"bounds": (1.0, 1.0)}, "low < high"),
  ("uncertainty_weighting", {"variant": "mine"}, "variant must be one of"),
  (
    "uncertainty_weighting",
    {"variant": "liebel", "kind": "regression"},
    "kind= belongs to variant='kendall'",
  ),
  ("gradnorm", {"alpha": -1.0}, r"alpha must lie in \[0, inf\]"),
  ("gradnorm", {"min_weight": 0.0}, r"min_weight must lie in \(0, 1\]"),
  ("dwa", {"steps_per_epoch": 1, "temperature": 0.0}, "temperature must lie"),
  ("dwa", {"steps_per_epoch": 0}, "steps_per_epoch must lie"),
  ("dtp", {"gamma": -1}, "gamma must lie"),
  ("dtp", {"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
  ("dtp", {"gamma": [1.0]}, "gamma must hold one value for each of the 3"),
  ("mgda", {"normalize": "l1"}, "normalize must be one of None, 'l2'"),
  ("mgda", {"drop_stationary": 1.0}, "drop_stationary must lie"),
  ("pareto_mtl", {"directions": np.eye(2)}, r"directions must have .*\[K, 3\]"),
  ("pareto_mtl", {"directions": np.eye(3), "epsilon": -1}, "epsilon must lie"),
  (
    "pareto_mtl",
    {"directions": np.eye(3), "feasibility_steps": -1},
    "feasibility_steps must lie",
  ),
]


@pytest.mark.parametrize("name, arguments, message", RANGES)
def test_arguments_of_methods(name, arguments, message):
  with pytest.raises(ValueError, match=message):
    optax_mtl.METHODS[name](T, **arguments)


def test_late_arguments_of_methods():
  """Those that are read by `init`, since they may be traced before."""
  with pytest.raises(ValueError, match="initial_log_vars must hold one value"):
    optax_mtl.uncertainty_weighting(3, initial_log_vars=[0.0]).init({})
  with pytest.raises(ValueError, match="initial_losses must hold one value"):
    optax_mtl.gradnorm(3, initial_losses=[1.0]).init({})


def test_mgda_refuses_negative_losses_whose_values_are_known():
  tx = optax_mtl.mgda(2, normalize="loss")
  state = tx.init(jnp.ones(2))
  with pytest.raises(ValueError, match="must not be negative.*normalize='l2'"):
    tx.update(jnp.eye(2), state, losses=jnp.array([1.0, -1.0]))
  with pytest.raises(TypeError, match="mgda needs losses="):
    tx.update(jnp.eye(2), state)
  update = jax.jit(lambda losses: tx.update(jnp.eye(2), state, losses=losses))
  assert np.isnan(update(jnp.array([1.0, -1.0]))[0]).any()


def test_gradnorm_norm_params():
  tx = harness.build("gradnorm", norm_params={"body": True})
  with pytest.raises(ValueError, match="norm_params= must be a pytree prefix"):
    attempt(tx)


# Sources.
def losses_of(params):
  return jnp.stack([jnp.sum(params), jnp.sum(params**2)])


SOURCES = [
  (lambda p: jnp.sum(p), ValueError, r"losses must have shape .*\[\]"),
  (lambda p: [p, p], ValueError, r"losses\[0\] must be a scalar, got shape"),
  (
    lambda p: {"b": jnp.sum(p), "a": p},
    ValueError,
    r"losses\['a'\] must be a scalar, got shape \[2\]",
  ),
  (lambda p: [], ValueError, "losses is empty"),
  (lambda p: None, TypeError, "losses must be an array"),
  (lambda p: [jnp.sum(p), "x"], TypeError, r"losses\[1\] must be a scalar"),
  (lambda p: jnp.argsort(p), TypeError, "losses must be real floating point"),
]


@pytest.mark.parametrize("function, kind, message", SOURCES)
@pytest.mark.parametrize("source", ["stacked", "implicit"])
def test_loss_functions(function, kind, message, source):
  with pytest.raises(kind, match=message):
    optax_mtl.value_and_task_grads(function, source=source)(jnp.ones(2))


def test_source_arguments():
  grads = optax_mtl.value_and_task_grads
  with pytest.raises(ValueError, match="source must be one of 'stacked'"):
    grads(losses_of, source="explicit")
  for size in (0, -1, 1.0, "all"):
    with pytest.raises(ValueError, match="chunk_size must be None or a pos"):
      grads(losses_of, chunk_size=size)
    with pytest.raises(ValueError, match="chunk_size must be None or a pos"):
      optax_mtl.value_and_task_batch_grads(losses_of, chunk_size=size)
    with pytest.raises(ValueError, match="chunk_size must be None or a pos"):
      optax_mtl.value_and_representation_grads(
        losses_of, losses_of, chunk_size=size
      )
  with pytest.raises(ValueError, match="argnums=1 names a positional"):
    grads(losses_of, argnums=1)(jnp.ones(2))
  with pytest.raises(TypeError, match=r"leaf \['n'\] of argument 0 .* int32"):
    grads(lambda p: losses_of(p["x"]))(
      {"x": jnp.ones(2), "n": jnp.zeros((), jnp.int32)}
    )
  with pytest.raises(TypeError, match="has_aux=True, fun must return a pair"):
    grads(losses_of, has_aux=True)(jnp.ones(2))
  with pytest.raises(TypeError, match="trunk must return a pair"):
    optax_mtl.value_and_representation_grads(
      lambda p: p, lambda p, z: losses_of(z), has_aux=True
    )(jnp.ones(2))


def test_gradnorm_norm_params_with_a_representation():
  _, grads = optax_mtl.value_and_representation_grads(
    lambda p: 2 * p, lambda p, z: losses_of(z)
  )(jnp.ones(2))
  tx = optax_mtl.gradnorm(2, norm_params=True)
  with pytest.raises(ValueError, match="norm_params= chooses among the params"):
    tx.update(grads, tx.init(jnp.ones(2)), losses=jnp.ones(2))


# Order and wrappers.
def test_another_transformation_before_the_method():
  """Gradients that do not exist cannot be mapped over."""
  _, grads = optax_mtl.value_and_task_grads(losses_of, source="implicit")(
    jnp.ones(2)
  )
  tx = optax.chain(optax.scale(2.0), optax_mtl.mgda(2))
  with pytest.raises(TypeError, match="put an optax_mtl method before"):
    tx.update(grads, tx.init(jnp.ones(2)), jnp.ones(2))


def test_what_wraps_a_whole_chain_without_task_axes():
  """The error says which wrapper to use instead."""
  grads, params = jnp.ones((2, 4)), jnp.ones(4)
  tx = optax.MultiSteps(optax_mtl.mgda(2), 2)
  with (
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
    pytest.raises((ValueError, TypeError)),
  ):
    tx.update(grads, tx.init(params), params)
  # Gradients of the summed loss, as a user of optax has them.
  with pytest.raises(ValueError, match="optax_mtl.accumulate"):
    optax_mtl.mgda(2).update(jnp.ones(4), optax_mtl.mgda(2).init(params))


def test_wrapper_arguments():
  method = optax_mtl.mgda(2)
  with pytest.raises(TypeError, match="refresh_every wraps a method .* chain"):
    optax_mtl.refresh_every(optax.chain(method, optax.sgd(0.1)), 2)
  with pytest.raises(ValueError, match="every_k must lie"):
    optax_mtl.refresh_every(method, 0)
  with pytest.raises(ValueError, match="every_k must lie"):
    optax_mtl.accumulate(method, 2, 0)
  with pytest.raises(ValueError, match="max_consecutive must lie"):
    optax_mtl.skip_nonfinite(method, -1)
  for wrap in (
    lambda n: optax_mtl.accumulate(method, n, 2),
    lambda n: optax_mtl.per_task(optax.identity(), n),
    lambda n: optax_mtl.track_conflicts(method, n),
  ):
    with pytest.raises(ValueError, match="num_tasks must be at least 1"):
      wrap(0)
    tx = wrap(2)
    with pytest.raises(ValueError, match="the only leaf .* must start with 2"):
      tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


def test_per_task_needs_the_gradients_themselves():
  _, grads = optax_mtl.value_and_task_grads(losses_of, source="implicit")(
    jnp.ones(2)
  )
  tx = optax_mtl.per_task(optax.identity(), 2)
  with pytest.raises(TypeError, match="stacked"):
    tx.update(grads, tx.init(jnp.ones(2)), jnp.ones(2))


# Preferences.
def test_pareto_arguments():
  pareto = optax_mtl.pareto
  with pytest.raises(ValueError, match="num_directions must be at least 2"):
    pareto.uniform_directions(1)
  with pytest.raises(ValueError, match="must be at least 1, got 3 and 0"):
    pareto.das_dennis_directions(3, 0)
  with pytest.raises(ValueError, match=r"points must have shape \[K, 2\]"):
    pareto.hypervolume_2d(jnp.ones((4, 3)), jnp.ones(2))
  with pytest.raises(ValueError, match=r"reference must have shape \[2\]"):
    pareto.hypervolume_2d(jnp.ones((4, 2)), jnp.ones(3))
