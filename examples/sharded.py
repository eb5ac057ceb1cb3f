"""Eight devices: batch and params are sharded, and the code stays the same.

Eight virtual CPU devices stand in for real ones. The batch is split over the
mesh axis "data", the params over "model"; `jit` does the rest. The task
gradients inherit the params' sharding, and a method's Gram matrix [T, T] is the
only thing that it exchanges between devices.
"""

import os

# Before JAX is imported: it makes its devices once.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
# Eight threads a device: each waits for the others in one, and several sums may
# be under way.
os.environ["NPROC"] = "64"

import collections  # noqa: E402
import re  # noqa: E402

import digits  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from jax.sharding import NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import optax_mtl  # noqa: E402


def collectives(compiled):
  """How often each exchange between devices occurs in a compiled program."""
  names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
  return dict(
    collections.Counter(
      re.findall(rf" ({names})(?:-start)?\(", compiled.as_text())
    )
  )


def main():
  mesh = jax.make_mesh(
    (4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  by_row = NamedSharding(mesh, P("data"))
  shardings = {
    "trunk": NamedSharding(mesh, P(None, "model")),
    "heads": NamedSharding(mesh, P("model", None)),
  }
  params = jax.device_put(digits.init_plain(jax.random.key(0)), shardings)
  shared = {"trunk": True, "heads": False}
  tx = optax.chain(optax_mtl.mgda(num_tasks=3), optax.adam(3e-3))
  opt_state = tx.init(params)

  @jax.jit
  def train_step(params, opt_state, batch):
    losses, grads = optax_mtl.value_and_task_grads(
      digits.plain_losses, shared=shared
    )(params, batch)
    updates, opt_state = tx.update(grads, opt_state, params, losses=losses)
    return optax.apply_updates(params, updates), opt_state, losses

  data = digits.load()
  for step, batch in enumerate(digits.batches(data, num_steps=101)):
    batch = jax.device_put(batch, by_row)
    params, opt_state, losses = train_step(params, opt_state, batch)
    if step % 25 == 0:
      digits.report(step, losses)
  print("the trunk is sharded as", params["trunk"].sharding.spec)

  # What the method alone exchanges, for gradients sharded like the params.
  stacked = {
    key: jax.ShapeDtypeStruct(
      (3, *params[key].shape),
      jnp.float32,
      sharding=NamedSharding(mesh, P(None, *sharding.spec)),
    )
    for key, sharding in shardings.items()
  }
  method = optax_mtl.on_trunk(optax_mtl.mgda(num_tasks=3), shared)
  update = jax.jit(method.update)
  compiled = update.lower(stacked, method.init(params), params).compile()
  print("collectives of the method:", collectives(compiled))


if __name__ == "__main__":
  main()
