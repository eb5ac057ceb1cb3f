"""States of every method as this version makes them, for later ones to read.

`python -m contract.older_states` writes `states/<version>.msgpack`, if there is
none: what `flax.serialization.to_bytes` makes of the state after some steps,
method by method, and of the first states of the wrappers. A file of a version
that is out is never written again.
"""

import pathlib

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization

import optax_mtl

FOLDER = pathlib.Path(__file__).with_name("states")
#: The state after so many steps of the case "base" is kept.
STEPS = 13

_PLAIN = "mgda"
#: The wrappers that have a state, or change a method's.
WRAPPED = {
  "accumulate": lambda tx: optax_mtl.accumulate(tx, harness.NUM_TASKS, 2),
  "skip_nonfinite": optax_mtl.skip_nonfinite,
  "track": optax_mtl.track,
  "refresh_every": lambda tx: optax_mtl.refresh_every(tx, 3),
  "ema_weights": lambda tx: optax_mtl.ema_weights(tx, 0.5),
  "weighted_then": lambda tx: optax_mtl.weighted_then(
    optax_mtl.fixed_weighting(harness.NUM_TASKS, jnp.ones(3)), tx
  ),
  "drop_nonfinite": optax_mtl.drop_nonfinite,
}


def state_of(method):
  """A method's state after the steps, from a run that other tests share."""
  states = harness.case_runs(method)["base"].states
  return jax.tree.map(lambda leaf: np.asarray(leaf[STEPS - 1]), states)


def first_of(wrapper):
  """A wrapper's first state, around one method, at the head of a chain."""
  tx = WRAPPED[wrapper](harness.build(_PLAIN))
  return optax.chain(tx).init(harness.params())


def main():
  states = {name: state_of(name) for name in harness.NAMES}
  wrapped = {name: first_of(name) for name in WRAPPED}
  FOLDER.mkdir(exist_ok=True)
  path = FOLDER / f"{optax_mtl.__version__}.msgpack"
  if path.exists():
    raise SystemExit(f"{path} is there already.")
  path.write_bytes(
    serialization.msgpack_serialize(
      {
        "methods": serialization.to_state_dict(states),
        "wrappers": serialization.to_state_dict(wrapped),
      }
    )
  )


if __name__ == "__main__":
  main()
