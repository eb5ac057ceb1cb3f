"""Many machines: the same script on one, under SLURM, or on a TPU pod.

Each process runs this file. The batch is split over the mesh axis "data", the
params over "model", wherever the devices are; what a method exchanges is one
[T, T] matrix. On one machine it runs as it stands. Under SLURM, Open MPI, or on
a TPU pod, start it once on each machine: JAX finds out who is there. Elsewhere
say it, for two processes on one machine

    export JAX_COORDINATOR_ADDRESS=localhost:9876 NUM_PROCESSES=2
    PROCESS_ID=0 python examples/many_machines.py &
    PROCESS_ID=1 python examples/many_machines.py
"""

import os

import digits
import jax
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import optax_mtl


def join_the_others():
  """Before anything else of JAX: the devices of all processes are one."""
  if "NUM_PROCESSES" in os.environ:
    # CPUs exchange numbers by gloo; GPUs and TPUs have their own ways.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
      num_processes=int(os.environ["NUM_PROCESSES"]),
      process_id=int(os.environ["PROCESS_ID"]),
    )
  elif {"SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_ID"} & set(
    os.environ
  ):
    jax.distributed.initialize()


def main():
  join_the_others()
  number = jax.device_count()
  model = 2 if number % 2 == 0 else 1
  mesh = jax.make_mesh(
    (number // model, model),
    ("data", "model"),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
  )
  by_row = NamedSharding(mesh, P("data"))
  shardings = {
    "trunk": NamedSharding(mesh, P(None, "model")),
    "heads": NamedSharding(mesh, P("model", None)),
  }
  # Jitted, so that each process makes its own part alone.
  params = jax.jit(digits.init_plain, out_shardings=shardings)(
    jax.random.key(0)
  )
  tx = optax.chain(optax_mtl.mgda(num_tasks=3), optax.adam(3e-3))
  # Not jitted: zeros for an array that is there lie where it lies.
  opt_state = tx.init(params)
  value_and_grads = optax_mtl.value_and_task_grads(
    digits.plain_losses, shared={"trunk": True, "heads": False}
  )

  @jax.jit
  def train_step(params, opt_state, batch):
    losses, grads = value_and_grads(params, batch)
    updates, opt_state = tx.update(grads, opt_state, params, losses=losses)
    return optax.apply_updates(params, updates), opt_state, losses

  def spread(leaf):
    # Of what it reads a process hands over the rows that its devices hold. A
    # loader that reads these alone calls make_array_from_process_local_data.
    return jax.make_array_from_callback(
      leaf.shape, by_row, lambda index: leaf[index]
    )

  data = digits.load()
  for step, batch in enumerate(digits.batches(data, num_steps=101)):
    batch = jax.tree.map(spread, batch)
    params, opt_state, losses = train_step(params, opt_state, batch)
    if step % 25 == 0 and jax.process_index() == 0:
      digits.report(step, losses)
  # One program, which all processes start: an operation on each leaf by itself
  # would be as many.
  length = jax.jit(optax.tree.norm)(params)
  weights = optax.tree.get(opt_state, "weights")
  if jax.process_index() == 0:
    print(f"{jax.process_count()} processes, {number} devices")
    print(f"length of the params {length:.5f}, weights {weights}")


if __name__ == "__main__":
  main()
