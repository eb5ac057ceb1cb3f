"""Where shardings are part of types, what comes out is spread as what went in.

A mesh of one device has the types of a mesh of many, so tracing shows it.
"""

import harness
import jax
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optax_mtl

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
