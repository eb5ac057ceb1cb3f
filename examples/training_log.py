"""Logging: figures by name in a progress bar, in a CSV file, and in a picture.

One of three tasks has no labels in every other batch.
"""

import csv
import pathlib

import digits
import jax
import jax.numpy as jnp
import optax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

import optax_mtl
from optax_mtl import plot

FOLDER = pathlib.Path("out/training_log")
STEPS, LOG_EVERY = 120, 20

# The means are over as many steps as lie between two rows of the log.
tx = optax.chain(
  optax_mtl.track(optax_mtl.mgda(num_tasks=3), window=LOG_EVERY),
  optax.adam(3e-3),
)
value_and_grads = optax_mtl.value_and_task_grads(
  digits.plain_losses, shared={"trunk": True, "heads": False}
)


@jax.jit
def train_step(params, opt_state, batch, active):
  losses, grads = value_and_grads(params, batch)
  updates, opt_state = tx.update(
    grads, opt_state, params, losses=losses, active=active
  )
  return optax.apply_updates(params, updates), opt_state, losses


def main():
  params = digits.init_plain(jax.random.key(0))
  opt_state = tx.init(params)
  batches = digits.batches(digits.load(), STEPS)
  FOLDER.mkdir(parents=True, exist_ok=True)
  bar = Progress(
    BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
  )
  with open(FOLDER / "log.csv", "w", newline="") as file, bar:
    writer = None
    task = bar.add_task("", total=STEPS)
    for step, batch in enumerate(batches, start=1):
      active = {"digit": True, "even": True, "ink": step % 2 == 0}
      active = jax.tree.map(jnp.asarray, active)
      params, opt_state, losses = train_step(params, opt_state, batch, active)
      bar.advance(task)
      if step % LOG_EVERY:
        continue
      # The losses' names are the figures': "weight/digit", "cosine/digit/even".
      scalars = optax_mtl.diagnostics(opt_state, losses)
      scalars |= {f"loss/{name}": loss for name, loss in losses.items()}
      row = {"step": step} | jax.tree.map(float, jax.device_get(scalars))
      writer = writer or csv.DictWriter(file, row)
      if step == LOG_EVERY:
        writer.writeheader()
      writer.writerow(row)
      conflicts = f"{row['conflict_rate']:.0%} of pairs conflict"
      bar.update(task, description=f"{conflicts}, ink {row['weight/ink']:.2f}")
  figure = plot.diagnostics(FOLDER / "log.csv")
  figure.savefig(FOLDER / "log.png")
  print(f"ink took part in {row['present/ink']:.0%} of the steps")
  print(f"wrote {FOLDER}/log.csv and log.png")


if __name__ == "__main__":
  main()
