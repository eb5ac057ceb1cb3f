"""Batches in parts on several devices: means of losses and gradients."""

import functools
import json
import textwrap

import alone
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_mtl
from optax_mtl.sources.stacked import as_task_gradients

DEVICES, PART = 4, 2
SHARED = {"trunk": True, "a": False, "b": False}
EPS = np.finfo(np.float32).eps


def _data():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
  params = {"trunk": draw(3, 4), "a": draw(4), "b": draw(4)}
  return params, draw(DEVICES * PART, 3), draw(DEVICES * PART, 2)


def _trunk(params, x, y):
  del y
  return jnp.tanh(x @ params["trunk"])


def _heads(params, z, x, y):
  del x
  return {
    "absolute": jnp.mean(jnp.abs(z @ params["a"] - y[:, 0])),
    "both": jnp.mean((z @ (params["a"] * params["b"])) ** 2),
    "square": jnp.mean((z @ params["b"] - y[:, 1]) ** 2),
  }


def _losses(params, x, y):
  return _heads(params, _trunk(params, x, y), x, y)


def _as_one(params, z, x, y):
  """A vector that is not put together from single losses."""
  del x
  errors = (z @ params["a"] - y[:, 0]) ** 2
  return jnp.mean(jnp.outer(errors, jnp.arange(1.0, 4.0)), axis=0)


def _vector(params, x, y):
  return _as_one(params, _trunk(params, x, y), x, y)


_TERMS = {
  name: functools.partial(lambda name, *args: _losses(*args)[name], name)
  for name in ("absolute", "both", "square")
}


def _terms(**options):
  source = optax_mtl.value_and_task_batch_grads(_TERMS, **options)
  return lambda params, x, y: source(params, {n: (x, y) for n in _TERMS})


def _one_function(**options):
  source = optax_mtl.value_and_task_batch_grads(
    lambda *args: _losses(*args)["square"], **options
  )
  return lambda params, x, y: source(
    params, jnp.stack([x, x + 1, 2 * x]), jnp.stack([y, y, -y])
  )


def _of(function, **options):
  return optax_mtl.value_and_task_grads(function, **options)


def _at(heads, **options):
  return optax_mtl.value_and_representation_grads(_trunk, heads, **options)


IMPLICIT = {"source": "implicit"}
CASES = {
  "each": (_of, _losses, {}),
  "each, trunk": (_of, _losses, {"shared": SHARED}),
  "as one": (_of, _vector, {}),
  "as one, trunk": (_of, _vector, {"shared": SHARED}),
  "implicit": (_of, _losses, IMPLICIT),
  "implicit, trunk": (_of, _losses, IMPLICIT | {"shared": SHARED}),
  "implicit, chunks": (_of, _vector, IMPLICIT | {"chunk_size": 2}),
  "one function": (_one_function, None, {}),
  "one function, trunk": (_one_function, None, {"shared": SHARED}),
  "terms": (_terms, None, {}),
  "implicit terms": (_terms, None, IMPLICIT | {"shared": SHARED}),
  "implicit terms, at once": (_terms, None, IMPLICIT | {"chunk_size": 2}),
  "representation": (_at, _heads, {"shared": SHARED}),
  "representation, as one": (_at, _as_one, {}),
}


def _source(case, **options):
  make, function, given = CASES[case]
  args = () if function is None else (function,)
  return make(*args, **given, **options)


def _everything(case, axis_name, params, x, y):
  """All that a method may ask of task gradients."""
  losses, grads = _source(case, axis_name=axis_name)(params, x, y)
  if not isinstance(grads, optax_mtl.TaskGradients):
    grads = as_task_gradients(grads, 3)
  weights = jnp.array([0.5, 2.0, -1.0])
  found = {
    "losses": losses,
    "gram": grads.gram(),
    "squared norms": grads.squared_norms(),
    "combination": grads.combine(weights),
    "kept": grads.combine(weights, keep=jnp.array([True, False, True])),
    "gradient": grads.gradient_of(jnp.int32(2)),
    "stack": grads.stacked(),
    "finite": grads.finite(),
  }
  if grads.at_params:
    found["sums"] = grads.map_gradients(
      lambda leaves: sum(jnp.sum(jnp.abs(leaf)) for leaf in leaves)
    )
  return found


def _in_parts(leaf):
  return leaf.reshape(DEVICES, PART, *leaf.shape[1:])


@pytest.mark.parametrize("case", CASES)
def test_means_over_the_parts_are_those_of_the_whole(case):
  params, x, y = _data()
  want = jax.jit(functools.partial(_everything, case, None))(params, x, y)
  parts = jax.jit(
    jax.vmap(
      functools.partial(_everything, case, "data"),
      in_axes=(None, 0, 0),
      axis_name="data",
    )
  )(params, _in_parts(x), _in_parts(y))
  for name, leaf in want.items():
    for a, b in zip(
      jax.tree.leaves(parts[name]), jax.tree.leaves(leaf), strict=True
    ):
      # All devices have the same: a sum of rounded products of sums over at
      # most 8 examples and 20 entries.
      scale = float(np.abs(np.asarray(b, np.float64)).max())
      np.testing.assert_array_equal(a, np.broadcast_to(a[:1], a.shape))
      np.testing.assert_allclose(a[0], b, rtol=0, atol=200 * EPS * scale)


@pytest.mark.parametrize(
  "ask",
  [
    lambda grads: grads.map_gradients(lambda leaves: jnp.max(leaves[0])),
    lambda grads: optax_mtl.graddrop(3).update(
      grads, optax_mtl.graddrop(3).init(_data()[0])
    )[0],
  ],
)
def test_entries_at_a_representation_in_parts_are_refused(ask):
  params, x, y = _data()

  def entries(params, x, y):
    _, grads = _source("representation", axis_name="data")(params, x, y)
    return ask(grads)

  with pytest.raises(TypeError, match="in parts on several devices"):
    jax.vmap(entries, (None, 0, 0), axis_name="data")(
      params, _in_parts(x), _in_parts(y)
    )


# Where types say over what an array varies, and where not: real devices,
# in a process that has them.
_PROGRAM = """
  import json
  import jax, jax.numpy as jnp, numpy as np
  from jax.sharding import PartitionSpec as P
  import optax_mtl
  from test_axis_name import *
  from test_axis_name import _data, _in_parts, _losses, _of, _source

  mesh = jax.make_mesh((DEVICES,), ("data",),
                       axis_types=(jax.sharding.AxisType.Auto,))
  params, x, y = _data()
  method = optax_mtl.mgda(3)

  def step(make, params, x, y):
    losses, grads = make(params, x, y)
    return losses, method.update(grads, method.init(params), params)[0]

  def sharded(run, check=True):
    return jax.jit(jax.shard_map(
      run, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P(),
      check_vma=check))

  def error(found, want):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(want))
    return max(float(np.abs(np.asarray(a) - b).max()) for a, b in pairs)

  out = {}
  for case in ("as one, trunk", "implicit, trunk", "one function, trunk",
               "implicit terms", "representation"):
    want = jax.jit(lambda *a: step(_source(case), *a))(params, x, y)
    run = lambda *a: step(_source(case, axis_name="data"), *a)
    out[case] = [error(sharded(run, check)(params, x, y), want)
                 for check in (True, False)]
  run = lambda *a: step(_source("each", axis_name="data"), *a)
  want = jax.jit(lambda *a: step(_source("each"), *a))(params, x, y)
  found = jax.pmap(run, in_axes=(None, 0, 0), axis_name="data")(
    params, _in_parts(x), _in_parts(y))
  out["pmap"] = [error(jax.tree.map(lambda v: v[1], found), want)]
  averaged = lambda p, x, y: jax.lax.pmean(_losses(p, x, y), "data")
  out["inside"] = [error(
    sharded(lambda *a: step(_of(averaged), *a))(params, x, y), want)]
  out["refused"] = []
  for make in (_of(_losses), _of(averaged, axis_name="data")):
    try:
      sharded(lambda *a: step(make, *a))(params, x, y)
    except ValueError as e:
      out["refused"].append(str(e))
  print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def on_devices():
  output = alone.printed_by(
    "-c",
    textwrap.dedent(_PROGRAM),
    devices=DEVICES,
    paths=(alone.ROOT, alone.ROOT / "tests", alone.ROOT / "tests/sources"),
  )
  return json.loads(output.splitlines()[-1])


def test_real_devices_agree_with_one(on_devices):
  errors = {k: v for k, v in on_devices.items() if k != "refused"}
  assert len(errors) == 7
  for case, found in errors.items():
    # MGDA's weights move by the Gram matrix's rounding times its condition,
    # a few hundreds here; the numbers are near 1.
    assert max(found) < 1000 * EPS, case


def test_what_is_not_averaged_or_twice_is_refused(on_devices):
  local, twice = on_devices["refused"]
  assert "axis_name='data'" in local
  assert "differ between the devices" in local
  assert "average them again" in twice
