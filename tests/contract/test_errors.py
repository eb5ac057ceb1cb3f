"""Wrong input is an error while tracing, one that names it and teaches."""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_mtl

every_method = pytest.mark.parametrize(
  "name", harness.WEIGHING + harness.UPDATING
)
T = harness.NUM_TASKS


def attempt(tx, grads=None, params="params", **changes):
  """Traces one update with some of its arguments changed; None removes one."""
  data = harness.to_dtype(harness.data(num_steps=1), "float32")
  row, start = harness.row_of(data, 0), harness.params()
  extra = harness.extra_of(row) | changes
  extra = {k: v for k, v in extra.items() if v is not None}
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


def losses_of(params):
  return jnp.stack([jnp.sum(params), jnp.sum(params**2)])


def without_head():
  tree = stacked()
  del tree["head"]
  return tree


HINTS = ("value_and_task_grads", "accumulate", "skip_nonfinite", "per_task")

#: What -> how the update is called, the error, and what its message holds.
UPDATES = {
  **{
    f"a leaf of shape {list(shape)}": (
      {"grads": stacked(head=shape)},
      ValueError,
      (r"leaf ['head']", str(list(shape)), str(T), *HINTS),
    )
    for shape in [(2,), (), (4, 2), (T, 3)]
  },
  "a leaf of another number of tasks, and no params": (
    {"grads": stacked(head=(2,)), "params": None},
    ValueError,
    ("leaf ['head']", "must start with 3"),
  ),
  "another structure": (
    {"grads": without_head()},
    ValueError,
    ("differ in structure: the tree of gradients lacks leaf ['head']",),
  ),
  "active of numbers": (
    {"active": jnp.ones(T, jnp.float32)},
    TypeError,
    ("active must be bool, got float32",),
  ),
  "active of too few": (
    {"active": jnp.ones(T - 1, bool)},
    ValueError,
    ("active must hold one bool for each",),
  ),
  "names that differ": (
    {
      "losses": dict.fromkeys("abc", jnp.ones(())),
      "kpis": dict.fromkeys("abd", jnp.ones(())),
    },
    ValueError,
    ("different names", "a, b, c in losses=", "a, b, d in kpis="),
  ),
}


@every_method
@pytest.mark.parametrize("what", UPDATES)
def test_updates(name, what):
  """The leaf or argument, what it is, what it should be, and what to do."""
  call, kind, parts = UPDATES[what]
  with pytest.raises(kind) as error:
    attempt(harness.build(name), **call)
  for part in parts:
    assert part in str(error.value)


def test_a_leaf_that_is_no_array():
  tx = harness.build("equal_weighting")
  with pytest.raises(TypeError, match=r"leaf \['head'\].*str, not an array"):
    tx.update(stacked() | {"head": "text"}, tx.init(harness.params()))


@every_method
def test_an_extra_arg_that_is_missing_or_of_the_wrong_shape(name):
  """Names the argument, why it is needed, and the call."""
  tx = harness.build(name)
  for need in optax_mtl.facts(tx).needs:
    with pytest.raises(TypeError, match=f"{name} needs {need}=.*: .*") as error:
      attempt(tx, **{need: None})
    assert f"tx.update(grads, state, params, {need}={need})" in str(error.value)
    if need == "second_grads":
      with pytest.raises(ValueError, match="must start with 3"):
        attempt(tx, second_grads={"head": jnp.zeros((2, 2))})
      continue
    for shape, message in (
      ((T + 1,), f"{need} must hold one value for each"),
      ((T, 1), rf"{need} must have shape .*\[3, 1\]"),
      ((), rf"{need} must have shape .*\[\]"),
    ):
      with pytest.raises(ValueError, match=message):
        attempt(tx, **{need: jnp.zeros(shape)})


@every_method
@pytest.mark.parametrize("num_tasks", [0, -1, 2.0, "3", None])
def test_num_tasks(name, num_tasks):
  function = (harness.PACKAGE | harness.OWN)[name]
  example = function.info.example((0,))
  kind = ValueError if isinstance(num_tasks, int) else TypeError
  with pytest.raises(kind, match="num_tasks must be"):
    function(num_tasks, **example)
  with pytest.raises(TypeError, match=f"{name}\\(\\).*num_tasks"):
    function(**example)


@every_method
def test_num_tasks_cannot_be_traced(name):
  function = (harness.PACKAGE | harness.OWN)[name]
  with pytest.raises(TypeError, match="static_args=.*num_tasks"):
    jax.eval_shape(
      lambda n: function(n, **function.info.example((0,))).init({}),
      jnp.ones((), jnp.int32),
    )


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
  with pytest.raises(ValueError, match="=.loss.. takes.*not be negative.*'l2'"):
    tx.update(jnp.eye(2), state, losses=jnp.array([1.0, -1.0]))
  with pytest.raises(TypeError, match="mgda needs losses="):
    tx.update(jnp.eye(2), state)
  update = jax.jit(lambda losses: tx.update(jnp.eye(2), state, losses=losses))
  assert np.isnan(update(jnp.array([1.0, -1.0]))[0]).any()


# Which leaves.
#: What -> how leaves are chosen, the error and its message. A callable says
#: something only once it has seen params.
LEAVES = {
  "no prefix": (
    {"body": True},
    ValueError,
    "{}= must be a pytree prefix of the params",
  ),
  "no bool": (
    {"head": "no", "trunk": True},
    TypeError,
    r"leaf \['head'\] of {}= is a str",
  ),
  "no leaf": (
    lambda p: jax.tree.map(lambda _: False, p),
    ValueError,
    r"{}= matches no leaf .* The leaves are \['head'\], \['trunk'\]\['bias'\]",
  ),
}


@pytest.mark.parametrize("what", LEAVES)
@pytest.mark.parametrize("name", harness.every_kind)
def test_a_trunk_that_is_none(name, what):
  """Refused by `init` and by `update`: the method would be off in silence."""
  shared, kind, message = LEAVES[what]
  tx = optax_mtl.on_trunk(harness.build(name), shared)
  with pytest.raises(kind, match=message.format("shared")):
    tx.init(harness.params())
  row = harness.row_of(
    harness.to_dtype(harness.data(num_steps=1), "float32"), 0
  )
  state = harness.build(name).init(harness.params())
  with pytest.raises(kind, match=message.format("shared")):
    tx.update(row.grads, state, **harness.extra_of(row))


@pytest.mark.parametrize("what", LEAVES)
def test_norm_params_that_are_none(what):
  chosen, kind, message = LEAVES[what]
  with pytest.raises(kind, match=message.format("norm_params")):
    attempt(harness.build("gradnorm", norm_params=chosen))


@pytest.mark.parametrize(
  "norm_params",
  [{"head": True, "trunk": False}, {"head": True, "trunk": True}],
)
def test_norm_params_of_a_head(norm_params):
  """The norms are the trunk's: a head's leaf is not among them."""
  tx = harness.build("gradnorm", norm_params=norm_params)
  with pytest.raises(
    ValueError, match=r"norm_params= .* leaf \['head'\], which"
  ):
    attempt(optax_mtl.on_trunk(tx, harness.SHARED))


def test_a_trunk_twice():
  tx = optax_mtl.on_trunk(harness.build("mgda"), harness.SHARED)
  with pytest.raises(ValueError, match="trunk"):
    attempt(optax_mtl.on_trunk(tx, harness.SHARED))
  with pytest.raises(ValueError, match="heads must be one of 'sum'"):
    optax_mtl.on_trunk(harness.build("mgda"), True, heads="mean")


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
  _, implicit = optax_mtl.value_and_task_grads(losses_of, source="implicit")(
    jnp.ones(2)
  )
  around = optax.MultiSteps(optax.chain(optax_mtl.mgda(2), optax.sgd(0.1)), 2)
  with pytest.raises(TypeError, match="accumulate in place of optax.MultiSte"):
    around.update(implicit, around.init(jnp.ones(2)), jnp.ones(2))
  # Gradients of the summed loss, as a user of optax has them.
  with pytest.raises(ValueError, match="optax_mtl.accumulate"):
    optax_mtl.mgda(2).update(jnp.ones(4), optax_mtl.mgda(2).init(params))


def test_wrapper_arguments():
  method = optax_mtl.mgda(2)
  with pytest.raises(TypeError, match="refresh_every wraps a method .* chain"):
    optax_mtl.refresh_every(optax.chain(method, optax.sgd(0.1)), 2)
  with pytest.raises(TypeError, match="ema_weights wraps a method .* chain"):
    optax_mtl.ema_weights(optax.chain(method, optax.sgd(0.1)))
  for wrap, name in (
    (lambda tx: optax_mtl.refresh_every(tx, 2), "refresh_every"),
    (optax_mtl.ema_weights, "ema_weights"),
  ):
    without = optax_mtl.skip_nonfinite(harness.build("graddrop"))
    with pytest.raises(TypeError, match=f"{name} .* graddrop has none"):
      wrap(without)
  with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\)"):
    optax_mtl.ema_weights(method, 1.0)
  with pytest.raises(ValueError, match="every_k must lie"):
    optax_mtl.refresh_every(method, 0)
  with pytest.raises(ValueError, match="every_k must lie"):
    optax_mtl.accumulate(method, 2, 0)
  with pytest.raises(ValueError, match="max_consecutive must lie"):
    optax_mtl.skip_nonfinite(method, -1)
  for wrap in (
    lambda n: optax_mtl.accumulate(method, n, 2),
    lambda n: optax_mtl.per_task(optax.identity(), n),
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


def test_heads_cannot_have_weights_that_there_are_not():
  """A method that makes its update from the gradients has none for them."""
  params = harness.params()
  stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
  tx = optax_mtl.on_trunk(optax_mtl.median(2), harness.SHARED, heads="weighted")
  with pytest.raises(
    ValueError, match='"weighted" asks for .* median has none'
  ):
    tx.update(stacked, tx.init(params), params)
