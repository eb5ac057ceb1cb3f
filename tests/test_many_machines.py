"""Two processes with four devices each compute what one device computes."""

import concurrent.futures
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from alone import with_devices

ROOT = pathlib.Path(__file__).parents[1]
EPS = np.finfo(np.float32).eps

# Each process prints, for each way to spread params and batch, the largest
# difference of losses and update to those on one device of its own, relative to
# the largest entry.
_WORKER = """
  import json, os, sys
  import jax, jax.numpy as jnp, numpy as np, optax
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
  from jax.experimental import multihost_utils
  from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
  import optax_mtl

  assert jax.device_count() == 8 and jax.local_device_count() == 4
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  params = {"trunk": draw(16, 32) / 4, "a": draw(32, 8), "b": draw(32, 8)}
  data = {"x": draw(64, 16), "y": draw(64, 8)}
  shared = {"trunk": True, "a": False, "b": False}

  # On an explicit mesh a product of arrays that are spread over one axis has to
  # say where it goes: the batch by rows, here.
  product = jnp.matmul

  def trunk(params, batch):
    return jnp.tanh(product(batch["x"], params["trunk"]))

  def heads(params, z, batch):
    a, b = params["a"], params["b"]
    return {
      "far": jnp.mean(jnp.abs(product(z, b) - batch["y"])),
      "near": jnp.mean((product(z, a) - batch["y"]) ** 2),
      "small": 1e-3 * jnp.mean(product(z, a - b) ** 2),
    }

  def losses(params, batch):
    return heads(params, trunk(params, batch), batch)

  of_terms = {n: (lambda p, batch, n=n: losses(p, batch)[n])
              for n in ("far", "near", "small")}

  def sources(axis_name=None):
    told = dict(shared=shared, axis_name=axis_name)
    one = optax_mtl.value_and_task_grads
    terms = optax_mtl.value_and_task_batch_grads(of_terms, **told)
    return {
      "stacked": one(losses, **told),
      "implicit": one(losses, source="implicit", **told),
      "representation":
        optax_mtl.value_and_representation_grads(trunk, heads, **told),
      "terms": lambda p, batch: terms(p, dict.fromkeys(of_terms, batch)),
    }

  # A method of each kind: from losses, from the Gram matrix, from gradients.
  methods = {
    "stacked": [optax_mtl.uncertainty_weighting(3), optax_mtl.pcgrad(3),
                optax_mtl.upgrad(3), optax_mtl.bloop(3)],
    "implicit": [optax_mtl.mgda(3)],
    "representation": [optax_mtl.conflict_free(3)],
    "terms": [optax_mtl.norm_balance(3)],
  }

  def update(source, several, params, batch):
    values, grads = source(params, batch)
    return values, [
      tx.update(grads, tx.init(params), params, losses=values)[0]
      for tx in several]

  def mesh(kind):
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)

  def put(mesh, tree, spec):
    return jax.tree.map(
      lambda x, s: jax.make_array_from_callback(
        x.shape, NamedSharding(mesh, s), lambda at: x[at]), tree, spec)

  everywhere = dict.fromkeys(params, P())
  ways = {
    "data parallel": (P(("data", "model")), everywhere),
    "fully sharded": (P(("data", "model")),
                      dict.fromkeys(params, P(("data", "model")))),
    "tensor parallel": (P("data"), {"trunk": P(None, "model"),
                                    "a": P("model"), "b": P("model")}),
  }
  wanted = {
    name: jax.tree.map(np.asarray, jax.jit(
      lambda p, b: update(source, methods[name], p, b))(params, data))
    for name, source in sources().items()
  }

  def error(found, want):
    found = multihost_utils.process_allgather(found, tiled=True)
    return max(
      float(np.abs(a - b).max() / np.abs(b).max())
      for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want)))

  out = {}
  auto = mesh(AxisType.Auto)
  for way, (rows, spec) in ways.items():
    # Each source once with each way would be twelve programs.
    names = list(wanted) if way == "fully sharded" else ["implicit"]
    for name in names:
      run = jax.jit(lambda p, b: update(sources()[name], methods[name], p, b))
      found = run(put(auto, params, spec),
                  put(auto, data, dict.fromkeys(data, rows)))
      out[f"{way}, {name}"] = error(found, wanted[name])
  axes = ("data", "model")
  for name in ("stacked", "implicit"):
    run = jax.jit(jax.shard_map(
      lambda p, b: update(sources(axes)[name], methods[name], p, b),
      mesh=auto, in_specs=(P(), P(axes)), out_specs=P()))
    found = run(put(auto, params, everywhere),
                put(auto, data, dict.fromkeys(data, P(axes))))
    out[f"shard_map, {name}"] = error(found, wanted[name])
  explicit = mesh(AxisType.Explicit)
  product = lambda x, w: jnp.matmul(x, w, out_sharding=P("data"))
  rows, spec = ways["tensor parallel"]
  with jax.set_mesh(explicit):
    for name in ("implicit", "terms"):
      run = jax.jit(lambda p, b: update(sources()[name], methods[name], p, b))
      found = run(put(explicit, params, spec),
                  put(explicit, data, dict.fromkeys(data, rows)))
      # The update lies where the params do, and says so in its type.
      for one in found[1]:
        for key, leaf in one.items():
          assert jax.typeof(leaf).sharding.spec[:2] == (*spec[key], None)[:2]
      out[f"explicit, {name}"] = error(found, wanted[name])
  print("found", json.dumps(out), flush=True)
"""


def _two(arguments):
  """What two processes print that are started with an address and a number."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  env = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    **with_devices(4),
    "JAX_COORDINATOR_ADDRESS": address,
    "NUM_PROCESSES": "2",
  }
  env = {k: v for k, v in env.items() if not k.startswith("JAX_NUMPY_")}
  # Both would write the same files of the compilation cache.
  env.pop("JAX_COMPILATION_CACHE_DIR", None)
  processes = [
    subprocess.Popen(
      [sys.executable, *arguments, address, str(number)],
      cwd=ROOT,
      env=env | {"PROCESS_ID": str(number)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(2)
  ]
  try:
    # Both at once: one whose pipe is full would keep the other waiting.
    with concurrent.futures.ThreadPoolExecutor() as pool:
      printed = list(pool.map(lambda p: p.communicate(timeout=600), processes))
  finally:
    for process in processes:
      process.kill()
  for process, (_, errors) in zip(processes, printed, strict=True):
    assert process.returncode == 0, errors[-4000:]
  return [output for output, _ in printed]


@pytest.fixture(scope="module")
def found():
  outputs = _two(["-c", textwrap.dedent(_WORKER)])
  return [json.loads(re.search(r"found (.*)", text)[1]) for text in outputs]


def test_two_processes_agree_with_one_device(found):
  one, other = found
  assert one == other  # All devices hold the same.
  assert len(one) == 1 + 4 + 1 + 2 + 2
  for case, error in one.items():
    # Sums over 64 examples and 512 entries in another order; the condition of
    # the cosines, 6, multiplies their rounding in the weights.
    assert error < 6 * np.sqrt(512) * EPS, case


def test_the_example_starts_on_two_as_on_one():
  first, second = _two(["examples/many_machines.py"])
  assert "2 processes, 8 devices" in first
  losses = re.search(r"step  100  digit +([\d.]+)", first)
  assert losses, first
  # From ln 10 = 2.3; the example's own test holds one machine to that.
  assert float(losses[1]) < 1.8
  assert "step" not in second
