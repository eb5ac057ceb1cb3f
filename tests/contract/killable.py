"""A run of a method of each kind that may be killed at any time.

`python -m contract.killable FOLDER NAME` trains, saves each step with orbax in
FOLDER, without waiting for it to be written, and leaves its params and states
in NAME.npz. Where there is a step in FOLDER, it goes on from the last one. Then
it waits to be killed, if NAME is "killed". `python -m contract.killable FOLDER`
does the same without saving, whole, and then from the start again, as "killed".
"""

import functools
import pathlib
import sys
import time

import harness
import jax
import numpy as np
import optax
import orbax.checkpoint

import optax_mtl

STEPS = 40
T = harness.NUM_TASKS


def build(name):
  """In all that counts steps: two batches an update, weights every third."""
  method = harness.build(name)
  if harness.weighs(name):
    method = optax_mtl.refresh_every(method, 3)
  return optax_mtl.accumulate(optax.chain(method, optax.adam(0.1)), T, 2)


def first(kinds):
  """The params and states before the first step."""
  params = harness.params()
  return {name: (params, tx.init(params)) for name, tx in kinds.items()}


@functools.partial(jax.jit, static_argnums=0)
def step(kinds, carry, row):
  """All kinds of methods in one program."""
  new = {}
  for name, tx in dict(kinds).items():
    params, state = carry[name]
    updates, state = tx.update(
      row.grads, state, params, active=row.active, **harness.extra_of(row)
    )
    new[name] = optax.apply_updates(params, updates), state
  return new


def saved(folder):
  """The numbers of the steps that are there as a whole."""
  return [int(p.name) for p in folder.iterdir() if p.name.isdigit()]


def train(folder=None):
  """All steps, from the last one that is saved in the folder, if any."""
  kinds = {name: build(name) for name in harness.every_kind}
  data = harness.data()._replace(active=harness.intermittent())
  data = harness.to_dtype(data, "float32")
  carry, start = first(kinds), 0
  with orbax.checkpoint.StandardCheckpointer() as checkpointer:
    if folder is not None and (done := saved(folder)):
      start = max(done) + 1
      carry = checkpointer.restore(folder / str(start - 1), carry)
      print("resumed at", start, flush=True)
    for i in range(start, STEPS):
      carry = step(tuple(kinds.items()), carry, harness.row_of(data, i))
      if folder is not None:
        checkpointer.save(folder / str(i), carry)
        print("step", i, flush=True)
  return carry


def leave(path, carry):
  """Writes params and states for another process."""
  leaves = jax.tree_util.tree_leaves_with_path(carry)
  np.savez(path, **{jax.tree_util.keystr(k): v for k, v in leaves})


def main(folder, name="killed"):
  folder = pathlib.Path(folder)
  if name == "killed":
    leave(folder / "whole.npz", train())
  leave(folder / f"{name}.npz", train(folder))
  while name == "killed":
    time.sleep(1)


if __name__ == "__main__":
  main(*sys.argv[1:])
