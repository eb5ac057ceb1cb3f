"""The code of the page "Many machines": on eight devices, and then on two."""

import json
import textwrap

import alone
import pytest

# What both processes do with the page's code.
_SHARED = """
  import json, re, sys
  import jax, jax.numpy as jnp, numpy as np, optax, orbax.checkpoint
  from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
  import optax_mtl

  page = open("docs/many_machines.md", encoding="utf-8").read()
  checkpoints, tasks = re.findall(r"(?ms)^```python\\n(.*?)^```", page)
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)

  def mesh_of(name, kind=AxisType.Auto):
    return jax.make_mesh((jax.device_count(),), (name,), axis_types=(kind,))

  # `bloop` remembers a gradient, and has the weights of no solver.
  tx = optax.chain(optax_mtl.bloop(3), optax.adam(0.1))
  specs = {"w": P("data", None), "b": P()}
  start = {"w": draw(16, 8), "b": draw(8)}
  init = lambda: jax.tree.map(jnp.asarray, start)
  targets = draw(3, 16, 8)

  @jax.jit
  def step(params, state):
    values, grads = optax_mtl.value_and_task_grads(
      lambda p: [jnp.mean((p["w"] + p["b"] - y) ** 2) for y in targets])(params)
    updates, state = tx.update(grads, state, params, losses=values)
    return optax.apply_updates(params, updates), state

  exec(checkpoints)

  def hexed(tree):
    return [np.asarray(leaf).tobytes().hex() for leaf in jax.tree.leaves(tree)]
"""

_SAVE = """
  mesh = mesh_of("data")
  params = jax.device_put(init(), jax.tree.map(
    lambda spec: NamedSharding(mesh, spec), specs))
  state = tx.init(params)
  for _ in range(3):
    params, state = step(params, state)
  save(sys.argv[1], params, state)
  out = {"saved": hexed((params, state))}

  # Tasks over a mesh axis: two on each device.
  from benchmarks.cost.exchanges import exchanges
  T = 2 * jax.device_count()
  loss_fn = lambda p, x, y: jnp.mean((jnp.tanh(x @ p["w"]) @ p["v"] - y) ** 2)
  params = {"w": draw(24, 32), "v": draw(32, 5)}
  batches = draw(T, 10, 24), draw(T, 10, 5)
  methods = {
    "losses": optax_mtl.uncertainty_weighting(T),
    "norms": optax_mtl.norm_balance(T),
    "gram": optax_mtl.mgda(T),
    "update": optax_mtl.bloop(T),
  }

  # All at once on one device.
  @jax.jit
  def on_one(params, batches):
    values, grads = optax_mtl.value_and_task_batch_grads(loss_fn)(
      params, *batches)
    return {name: method.update(
      grads, method.init(params), params, losses=values)[0]
      for name, method in methods.items()}

  want = on_one(params, batches)
  mesh = mesh_of("task")
  spread = jax.device_put(batches, NamedSharding(mesh, P("task")))
  whole = NamedSharding(mesh, P())
  out["tasks"] = {}
  for name, method in methods.items():
    tx = optax.chain(method, optax.scale(-1.0))
    # With `batches` as one argument of two, as the page has it.
    code = tasks.replace("(params, batches)", "(params, *batches)")
    code = code.replace("@jax.jit", "@jax.jit(out_shardings=whole)")
    exec(code)
    args = jax.device_put((params, tx.init(params)), whole)
    compiled = train_step.lower(*args, spread).compile()
    new = compiled(*args, spread)[0]
    errors = [np.abs(p - n - w).max() / np.abs(w).max() for p, n, w in zip(
      *map(jax.tree.leaves, (params, new, want[name])))]
    found = exchanges(compiled.as_text())
    out["tasks"][name] = dict(
      error=float(max(errors)), exchanges=[x[:2] for x in found])
  # Rows that are left as they are.
  tx = optax.chain(methods["gram"], optax.scale(-1.0))
  exec(code.replace("jax.tree.map(by_entries, grads)", "grads"))
  args = jax.device_put((params, tx.init(params)), whole)
  text = train_step.lower(*args, spread).compile().as_text()
  out["rows"] = max(x.entries for x in exchanges(text))
  print(json.dumps(out))
"""

_RESTORE = """
  out = {}
  for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = mesh_of("data", kind)
    params, state = restore(sys.argv[1], mesh)
    assert len(params["w"].sharding.device_set) == 2
    for leaf, sds in zip(*map(jax.tree.leaves, ((params, state), like(mesh)))):
      assert leaf.sharding == sds.sharding, (leaf.sharding, sds.sharding)
      assert leaf.dtype == sds.dtype
      # What has a param's shape lies where the param does.
      assert leaf.shape != (16, 8) or leaf.sharding.spec[0] == "data"
    out[kind.name] = hexed((params, state))
  with jax.set_mesh(mesh):
    params, state = step(params, state)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  # Two batches alike have the mean of one.
  with jax.set_mesh(mesh):
    new = jax.tree.map(np.asarray, step(params, tx.init(params))[0])
    tx = optax_mtl.accumulate(tx, 3, 2)
    twice = jax.jit(lambda p, s: step.__wrapped__(*step.__wrapped__(p, s)))
    found, state = twice(params, tx.init(params))
  assert len(state.gradient_sum["w"].sharding.device_set) == 2
  out["accumulated"] = max(
    float(np.abs(np.asarray(found[key]) - new[key]).max()) for key in new)
  print(json.dumps(out))
"""

# The number of tasks, and the entries of the larger leaf.
_TASKS, _LARGEST = 16, 24 * 32


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  return tmp_path_factory.mktemp("run") / "state"


def _run(code, path, devices):
  code = textwrap.dedent(_SHARED) + textwrap.dedent(code)
  # orbax has warnings of its own.
  printed = alone.printed_by(
    "-W", "default", "-c", code, str(path), devices=devices
  )
  return json.loads(printed.splitlines()[-1])


@pytest.fixture(scope="module")
def on_eight(path):
  return _run(_SAVE, path, 8)


def test_saved_on_eight_devices_and_restored_on_two(on_eight, path):
  """Bit for bit; on either kind of mesh; and the run goes on there.

  Also with `accumulate`, both of whose branches have the params' types.
  """
  restored = _run(_RESTORE, path, 2)
  # Adam's first step is 0.1, from a mean of two equal gradients; the params are
  # below 4, and rounded to 2e-7 of that.
  assert restored.pop("accumulated") < 1e-6
  assert restored == dict.fromkeys(("Auto", "Explicit"), on_eight["saved"])


def test_tasks_over_a_mesh_axis(on_eight):
  """A method of each kind, and what crosses the network."""
  assert len(on_eight["tasks"]) == 4
  for name, found in on_eight["tasks"].items():
    # float32's 6e-8, times the root of the 928 entries that are summed, times a
    # few tens, by which MGDA's weights follow the Gram matrix.
    assert found["error"] < 6e-8 * 928**0.5 * 30, name
    large = [x for x in found["exchanges"] if x[1] > _TASKS**2]
    # Of the two leaves the smaller has 160 entries. `bloop` keeps a gradient
    # that lies whole on each device here, as the params do.
    gathers = 2 if name == "update" else 1
    assert sorted(large) == [
      *gathers * [["all-gather", _LARGEST]],
      ["all-to-all", _TASKS * 32 * 5 // 8],
      ["all-to-all", _TASKS * _LARGEST // 8],
    ], name


def test_rows_left_as_they_are_are_collected(on_eight):
  """What the page warns of: all gradients on each device."""
  assert on_eight["rows"] >= _TASKS * _LARGEST
