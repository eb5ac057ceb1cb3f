"""What JAX does not promise, taken away: right all the same, or slower."""

import json
import re
import textwrap

import alone
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_mtl import _jax_internals

# Which name is taken away -> what is run then.
_CASES = {
  "jax.extend.core Primitive": ["auto", "shard_map"],
  "jax.interpreters.mlir register_lowering": ["auto"],
  "jax.interpreters.mlir ir_constant": ["auto"],
  "jax.core ShapedArray": ["auto"],
  "axis_context": ["auto"],
  "jax.sharding AxisType": ["auto"],
  "jax typeof": ["explicit", "shard_map"],
  "mat and vma": ["explicit", "shard_map"],
  "jax.lax pcast": ["shard_map"],
  "jax.experimental.layout Layout": ["layout"],
  "jax.experimental.layout with_layout_constraint": ["layout"],
  "jax.experimental.checkify debug_check": ["check"],
  "jax.core Tracer": ["check"],
  "jax.extend.core jaxpr_as_fun": ["convolution", "heads", "each"],
  "jax.extend.core ClosedJaxpr": ["heads", "each"],
  "jax.extend.core Literal": ["heads", "each"],
  "nothing": [
    "auto",
    "explicit",
    "shard_map",
    "layout",
    "convolution",
    "heads",
    "each",
  ],
}

_PROGRAM = """
  import importlib, json, sys
  import jax, jax.numpy as jnp, numpy as np
  from jax.interpreters import mlir
  from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
  import jax.experimental.checkify, jax.experimental.layout, jax.extend.core
  from optax_mtl import _jax_internals, _jax_programs, linalg
  from optax_mtl.sources import value_and_task_grads

  T = 3
  rng = np.random.default_rng(0)
  # The second leaf is large enough for the loop of the CPU.
  host = [rng.standard_normal((T, *s)).astype(np.float32)
          for s in [(8,), (64, 8192)]]
  rows = np.concatenate([x.reshape(T, -1) for x in host], 1).astype(float)
  square = rows @ rows.T
  spec = [P(), P(None, None, "a")]
  kinds = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
  meshes = {name: jax.make_mesh((2,), ("a",), axis_types=(kind,))
            for name, kind in kinds.items()}

  def error(got, want):
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())

  def sharded(kind, function):
    with jax.set_mesh(meshes[kind]):
      return function([jax.device_put(x, NamedSharding(meshes[kind], s))
                       for x, s in zip(host, spec)])

  def gram(tree):
    return linalg.gram(tree, T)

  def auto():
    return max(error(gram([jnp.asarray(x) for x in host]), square),
               error(sharded("auto", jax.jit(gram)), square))

  def explicit():
    return error(sharded("explicit", jax.jit(gram)), square)

  def shard_map():
    local = lambda tree: jax.lax.psum(gram(tree[1:]), "a") + gram(tree[:1])
    run = jax.shard_map(local, mesh=meshes["auto"], in_specs=(spec,),
                        out_specs=P())
    return error(sharded("auto", jax.jit(run)), square)

  def layout():
    run = jax.jit(lambda x: _jax_internals.column_major(x @ x.T))
    return error(run(host[0]), host[0] @ host[0].T)

  def check():
    # A true condition raises nothing, whether it is looked at or not.
    def run(x):
      _jax_internals.debug_check(x > 0, "never", x=x)
      assert _jax_internals.is_traced(x)
      return x
    assert not _jax_internals.is_traced(1.0)
    return error(jax.jit(run)(1.0), 1.0)

  kernel = rng.standard_normal((3, 3, 2, 2)).astype(np.float32)
  images = rng.standard_normal((1, 4, 4, 2)).astype(np.float32)

  def losses(kernel):
    y = jax.nn.relu(jax.lax.conv_general_dilated(
      images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ))
    return [jnp.sum(y ** 2), jnp.sum(y[..., 0])]

  jacobian = np.stack(
    [jax.grad(lambda k: losses(k)[t])(kernel) for t in (0, 1)])

  def convolution():
    grads_of = value_and_task_grads(losses, chunk_size=1)
    return error(jax.jit(grads_of)(kernel)[1], jacobian)

  def heads():
    # Two tasks with a head each: one backward pass, or two.
    params = {"trunk": 3.0, "heads": [2.0, 5.0]}
    def two(p):
      return [p["trunk"] * p["heads"][0], (p["trunk"] * p["heads"][1]) ** 2]
    grads_of = value_and_task_grads(
      two, source="implicit", shared={"trunk": True, "heads": False})
    got = grads_of(params)[1].combine(jnp.array([0.5, -1.0]))
    want = [3.0, 90.0, 0.5 * 2 - 150]
    return error(jnp.stack(jax.tree.leaves(got)), np.array(want))

  def each():
    # Losses that are pulled back by themselves, or by one program.
    return error(jax.jit(value_and_task_grads(losses))(kernel)[1], jacobian)

  def take(what):
    if what == "axis_context":
      class Context:
        module_context = None
      old = mlir.register_lowering
      new = lambda p, rule: old(p, lambda _: rule(Context))
      return mlir, "register_lowering", new
    if what == "mat and vma":
      class Type:
        def __init__(self, x, typeof=jax.typeof):
          self.sharding = typeof(x).sharding
      return jax, "typeof", Type
    module, name = what.split()
    return importlib.import_module(module), name, None

  out = {}
  for what, checks in json.loads(sys.argv[1]).items():
    if what != "nothing":
      holder, name, new = take(what)
      old = getattr(holder, name)
      delattr(holder, name) if new is None else setattr(holder, name, new)
    jax.clear_caches()
    importlib.reload(_jax_internals)
    importlib.reload(_jax_programs)
    try:
      out[what] = {c: globals()[c]() for c in checks}
    except Exception as e:
      out[what] = {"raised": repr(e)}
    if what != "nothing":
      setattr(holder, name, old)
  print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def errors():
  """What was run, from a process with two devices and other modules."""
  output = alone.printed_by(
    "-c", textwrap.dedent(_PROGRAM), json.dumps(_CASES), devices=2
  )
  return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("name", _CASES)
def test_without(errors, name):
  assert list(errors[name]) == _CASES[name], errors[name]
  # 4 sqrt(n) eps with n the half a million terms of the longest sum, which a
  # jaxlib may add up in sequence.
  bound = 4 * np.sqrt(64 * 8192) * np.finfo(np.float32).eps
  assert max(errors[name].values()) < bound


def test_no_other_module_touches_these_names():
  names = re.compile(
    r"jax\.(core|extend|interpreters|_src)|checkify\.|import checkify"
    r"|AxisType|axis_types|axis_context|experimental\.layout|\bmlir\b"
    r"|Primitive|(?<!super\(\))(?<!signature)\.bind\(|\bpcast\b|\.vma\b|\.mat\b|\beqns\b|\bjaxpr\b|conv_general_dilated_p"
  )
  package = alone.ROOT / "optax_mtl"
  found = [
    f"{path.relative_to(alone.ROOT)}:{number}: {line.strip()}"
    for path in sorted(package.rglob("*.py"))
    if path.name not in ("_jax_internals.py", "_jax_programs.py")
    for number, line in enumerate(path.read_text().splitlines(), 1)
    if names.search(line)
  ]
  assert found == []


def test_debug_check_raises_where_checkify_asks():
  from jax.experimental import checkify

  def run(x):
    _jax_internals.debug_check(x > 0, "not positive: {x}", x=x)
    return x

  checked = checkify.checkify(run, errors=checkify.all_checks)
  error, _ = jax.jit(checked)(jnp.float32(-1))
  assert "not positive: -1.0" in str(error.get())


def test_a_layout_survives_the_compiler():
  run = jax.jit(lambda x: _jax_internals.column_major(x @ x.T))
  text = run.lower(np.ones((3, 3), np.float32)).as_text()
  assert "LayoutConstraint" in text
