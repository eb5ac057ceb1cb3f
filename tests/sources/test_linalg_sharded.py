"""Gram matrix and combination of leaves that lie on several devices."""

import json
import textwrap

import alone
import numpy as np
import pytest

from optax_mtl.linalg import cpu

_SHARDED = """
  import json, re
  import jax, jax.numpy as jnp, numpy as np
  from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
  from optax_mtl import linalg

  T = 3
  rng = np.random.default_rng(0)
  shapes = [(64, 2048), (16, 8192), (2048, 8, 96), (8,), ()]
  host = [rng.standard_normal((T, *s)).astype(np.float32) for s in shapes]
  rows = np.concatenate([x.reshape(T, -1) for x in host], 1).astype(float)
  want = rows @ rows.T
  weights = np.arange(1.0, T + 1, dtype=np.float32)
  keep = np.array([True, False, True])
  specs = {
    "leading": [P(None, "a"), P(None, "a"), P(None, "a"), P(), P()],
    "trailing": [P(None, None, "a"), P(None, None, "a"),
                 P(None, None, "a"), P(None, "a"), P()],
    "mixed": [P(None, "a"), P(None, None, "a"), P(None, None, None, "a"),
              P(), P()],
  }

  def combine(tree, w):
    return linalg.combine(tree, w), linalg.combine(tree, w, keep)

  def collectives(text):
    found = re.findall(r"= (.*?) (all-to-all|all-[a-z]+|collective-[a-z]+|"
                       r"reduce-scatter)(?:-start)?\\(", text)
    return [(op, re.findall(r"\\w+\\[[\\d,]*\\]", t)) for t, op in found]

  out = {}
  for kind in ("auto", "explicit", "shard_map", "eager"):
    axis = AxisType.Explicit if kind == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((8,), ("a",), axis_types=(axis,))
    with jax.set_mesh(mesh):
      for name, spec in specs.items():
        tree = [jax.device_put(x, NamedSharding(mesh, s))
                for x, s in zip(host, spec)]
        if kind == "shard_map":
          def gram(tree):
            sharded = [x for x, s in zip(tree, spec) if "a" in s]
            rest = [x for x, s in zip(tree, spec) if "a" not in s]
            # The second term does not vary over "a".
            return (jax.lax.psum(linalg.gram(sharded, T), "a")
                    + linalg.gram(rest, T))
          gram = jax.shard_map(gram, mesh=mesh, in_specs=(spec,), out_specs=P())
          jitted = jax.jit(gram)
        else:
          jitted = jax.jit(lambda tree: linalg.gram(tree, T))
        if kind == "eager":
          # Whole program by program, outside of jit.
          g = linalg.gram(tree, T)
          c, ck = combine(tree, weights)
          ok = linalg.finite(tree, T)
          result = dict(gram=[], combine=[])
        else:
          compiled = jitted.lower(tree).compile()
          g = compiled(tree)
          result = dict(gram=collectives(compiled.as_text()), combine=[])
        result["error"] = float(np.abs(g - want).max() / np.abs(want).max())
        if kind in ("auto", "explicit"):
          compiled = jax.jit(combine).lower(tree, weights).compile()
          c, ck = compiled(tree, weights)
          ok = jax.jit(lambda tree: linalg.finite(tree, T))(tree)
          result["combine"] = collectives(compiled.as_text())
        out[f"{kind} {name}"] = result
        if kind == "shard_map":
          continue  # Around the Gram matrix alone.
        for got, w in ((c, weights), (ck, weights * keep)):
          for x, y in zip(got, host):
            np.testing.assert_allclose(
              x, np.tensordot(w, y, 1), rtol=1e-5, atol=1e-5)
        for x, s in zip(c, spec):
          assert x.sharding.is_equivalent_to(
            NamedSharding(mesh, P(*s[1:])), x.ndim), (kind, x.sharding, s)
        assert np.all(ok)

  # Of one shape, and spread in two ways: none is moved next to the other.
  mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
  pair = [jax.device_put(jnp.full((64, 64), 2.0), NamedSharding(mesh, s))
          for s in (P("a"), P(None, "a"))]
  compiled = jax.jit(
    lambda pair: linalg.total(jnp.square, pair) + linalg.largest(pair)
  ).lower(pair).compile()
  out["entries"] = dict(
    value=float(compiled(pair)), collectives=collectives(compiled.as_text()))
  print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def sharded():
  """What eight CPU devices do, from a process that has them."""
  output = alone.printed_by(
    "-c",
    textwrap.dedent(_SHARDED),
    devices=8,
    JAX_NUMPY_DTYPE_PROMOTION="strict",
    JAX_NUMPY_RANK_PROMOTION="raise",
  )
  return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("kind", ["auto", "explicit", "shard_map", "eager"])
@pytest.mark.parametrize("name", ["leading", "trailing", "mixed"])
def test_sharded(sharded, kind, name):
  result = sharded[f"{kind} {name}"]
  # 4 sqrt(n) eps with n the columns of one device's largest leaf.
  assert result["error"] < 4 * np.sqrt(2048 * 96) * np.finfo(np.float32).eps
  assert result["combine"] == []
  if kind != "eager":
    # One collective; XLA may carry one [T, T] matrix per leaf in it.
    assert [op for op, _ in result["gram"]] == ["all-reduce"]
    for shape in result["gram"][0][1]:
      assert shape == "f32[3,3]"


def test_entries_are_summed_where_they_are(sharded):
  found = sharded["entries"]
  assert found["value"] == 2 * 64 * 64 * 4 + 2
  assert {op for op, _ in found["collectives"]} == {"all-reduce"}
  assert {s for _, shapes in found["collectives"] for s in shapes} == {"f32[]"}


def test_some_leaves_take_the_loop():
  # Else the cases above would not see the loop inside `shard_map`.
  assert 2048 * 96 > cpu.direct_columns(3)
