"""Where shardings are part of types, what comes out is spread as what went in.

A mesh of one device has the types of a mesh of many, so tracing shows it.
"""

import harness
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_mtl
from optax_mtl.sources.stacked import as_task_gradients

# optax.adam mixes dtypes.
pytestmark = pytest.mark.standard_promotion
T = harness.NUM_TASKS
SPECS = {"head": P("a"), "trunk": {"bias": P(), "kernel": P(None, "a")}}


def in_a_chain():
  return optax.chain(optax_mtl.mgda(T), optax.adam(0.1))


#: What holds gradients, or goes around a step that may be left out.
AROUND = {
  "accumulate": lambda: optax_mtl.accumulate(in_a_chain(), T, 2),
  "on_trunk": lambda: optax_mtl.on_trunk(in_a_chain(), harness.SHARED),
  "per_task": lambda: optax.chain(
    optax_mtl.per_task(optax.adam(0.1), T), optax_mtl.mgda(T)
  ),
  "refresh_every": lambda: optax_mtl.refresh_every(optax_mtl.gradnorm(T), 3),
  "skip_nonfinite": lambda: optax_mtl.skip_nonfinite(in_a_chain()),
}


def specs(tree):
  """Each array's axes, None where it lies whole on each device."""
  found = []
  for leaf in jax.tree.leaves(tree):
    spec = () if leaf.sharding is None else tuple(leaf.sharding.spec)
    found.append(spec + (None,) * (leaf.ndim - len(spec)))
  return found


@pytest.mark.parametrize("name", [*harness.NAMES, *AROUND])
def test_types_stay(name):
  mesh = jax.make_mesh((1,), ("a",), axis_types=(AxisType.Explicit,))
  tx = AROUND[name]() if name in AROUND else harness.build(name)
  row = harness.row_of(harness.to_dtype(harness.data(), "float32"), 0)

  def spread(tree, *leading):
    return jax.tree.map(
      lambda leaf, spec: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, P(*leading, *spec))
      ),
      tree,
      SPECS,
    )

  params = spread(harness.params())
  row = row._replace(
    grads=spread(row.grads, None), second=spread(row.second, None)
  )
  with jax.set_mesh(mesh):
    state = jax.eval_shape(tx.init, params)
    updates, new_state = jax.eval_shape(
      lambda *args, extra: tx.update(*args, **extra),
      row.grads,
      state,
      params,
      extra=harness.extra_of(row),
    )
  assert specs(updates) == specs(params)
  # Else the second step is compiled again, and `scan` refuses the state.
  assert specs(new_state) == specs(state)
  # What is as large as a param lies where the param does.
  for leaf, spec in zip(jax.tree.leaves(state), specs(state), strict=True):
    if leaf.shape[-2:] == (2, 5):
      assert spec[-2:] == (None, "a"), name


def _losses(params, x):
  z = jnp.tanh(x @ params["trunk"])
  total = jnp.sum(z * params["head"][None])
  return {"a": total, "b": jnp.sum(z**2), "c": total**2}


_TERMS = {n: lambda p, x, n=n: _losses(p, x)[n] for n in "abc"}
_terms = optax_mtl.value_and_task_batch_grads
_TRUNK = {"trunk": True, "head": False}
#: The task "b" has no gradient at the head, so zeros stand for one. Of three
#: tasks the terms' Gram matrix is made in a loop, by their numbers.
SOURCES = {
  "stacked": lambda: optax_mtl.value_and_task_grads(_losses, shared=_TRUNK),
  "implicit": lambda: optax_mtl.value_and_task_grads(
    _losses, source="implicit", shared=_TRUNK
  ),
  "terms": lambda: _terms(_TERMS),
  "implicit terms": lambda: _terms(_TERMS, source="implicit"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_types_of_all_that_a_source_is_asked_for(source):
  mesh = jax.make_mesh((1,), ("a",), axis_types=(AxisType.Explicit,))

  def array(*shape):
    spread = NamedSharding(mesh, P(None, "a") if len(shape) > 1 else P("a"))
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=spread)

  params = {"head": array(4), "trunk": array(2, 4)}

  def everything(params, x, task):
    batch = dict.fromkeys(_TERMS, x) if "terms" in source else x
    _, grads = SOURCES[source]()(params, batch)
    grads = as_task_gradients(grads, 3, params)
    one = [grads.combine(jnp.ones(3)), grads.gradient_of(task)]
    return one, grads.stacked(), grads.gram(), grads.finite()

  with jax.set_mesh(mesh):
    one, stacked, gram, finite = jax.eval_shape(
      everything, params, jnp.ones((3, 2)), jnp.int32(1)
    )
  assert specs(one) == 2 * specs(params)
  assert specs(stacked) == [(None, *spec) for spec in specs(params)]
  assert specs([gram, finite]) == [(None, None), (None,)]


def test_tasks_that_are_spread_are_refused():
  """The compiler would collect all gradients; on this mesh JAX cannot."""
  mesh = jax.make_mesh((1,), ("a",), axis_types=(AxisType.Explicit,))
  rows = NamedSharding(mesh, P("a"))
  grads = {"w": jax.ShapeDtypeStruct((T, 2), jnp.float32, sharding=rows)}
  tx = optax_mtl.mgda(T)
  state = tx.init({"w": jnp.zeros(2)})
  with (
    jax.set_mesh(mesh),
    pytest.raises(ValueError, match=r"\['w'\] of .* over the mesh axis 'a'"),
  ):
    jax.eval_shape(tx.update, grads, state)
