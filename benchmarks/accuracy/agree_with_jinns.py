"""How exactly jinns' weight updates and this package's do the same.

Losses and gradients of some steps go to jinns' own functions, and to the
methods here that have the matching settings. Prints for each the largest
relative error of either side against a float64 reference, and the largest
difference between the two; below the table, why a side is off where it is by
more than rounding. A difference without a reason is exit status 1.

    python -m benchmarks.accuracy.agree_with_jinns

Needs the `jinns` extra. Takes half a minute. What the weights are good for is
measured by `benchmarks.pinn.against_jinns`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optax_mtl
from benchmarks.accuracy import parity
from benchmarks.accuracy.parity import Known
from benchmarks.common import options
from benchmarks.reference.methods import REFERENCES
from benchmarks.reference.methods.relobralo import drawn_lookbacks

INSTALL = (
  "jinns is not installed. To compare with it: pip install -e '.[bench,jinns]'."
)
STEPS = 8
#: jinns' terms, in the order of its fields, for one that has all but a norm;
#: and for an ordinary differential equation.
PDE = ("dyn_loss", "boundary_loss", "observations", "initial_condition")
ODE = ("dyn_loss", "initial_condition", "observations")
#: Shapes of the gradients' leaves.
SHAPES = ((4, 3), (3,))

#: What jinns adds to what it divides by.
_EPS = 1e-6

#: docs/from_jinns.md has the same sentences. All of them together are in the
#: reference that jinns is held against.
KNOWN = (
  Known(
    ("soft_adapt", "ReLoBRaLo", "ReLoBRaLo(decay_factor=0)", "prior_loss"),
    "theirs",
    "1e-6 is added to the loss that is divided by, so that losses of that size "
    "and below no longer count as they are; here nothing is added.",
    where=("losses of 1e-3", "losses of 1e-6"),
    proved=parity.ROUNDING,
  ),
  Known(
    ("ReLoBRaLo",),
    "theirs",
    "the softmax of the last two losses stands where the paper has the last "
    "weights, so nothing is averaged, and the factor T stands before the look "
    "back alone.",
    proved=parity.ROUNDING,
  ),
  Known(
    ("lr_annealing", "lr_annealing, ODE"),
    "theirs",
    "the absolute value of each leaf's mean stands where the paper has the "
    "mean of the absolute values, and entries of both signs cancel.",
    where=("both signs",),
    proved=parity.ROUNDING,
  ),
  Known(
    ("lr_annealing", "lr_annealing, ODE"),
    "theirs",
    "each leaf counts the same, whatever its size; here each entry does.",
    where=("two leaves", "both signs"),
    proved=parity.ROUNDING,
  ),
  Known(
    ("lr_annealing", "lr_annealing, ODE"),
    "theirs",
    "1e-6 is added to the mean that is divided by; here nothing is added.",
    where=("gradients of 1e-6",),
    proved=parity.ROUNDING,
  ),
  Known(
    ("lr_annealing, ODE",),
    "theirs",
    "the weights are computed in the order observations, initial condition, "
    "and stored in the order initial condition, observations: each gets the "
    "weight of the other.",
    proved=parity.ROUNDING,
  ),
)


# -- what goes in --------------------------------------------------------------


def losses(label: str) -> np.ndarray:
  """[STEPS, 4] of float32, of one size; they fall, with noise."""
  rng = np.random.default_rng(0)
  falls = np.cumsum(rng.normal(-0.2, 0.3, (STEPS, len(PDE))), axis=0)
  return (LOSSES[label] * np.exp(falls)).astype(np.float32)


LOSSES: Mapping[str, float] = {
  "losses of 10": 10.0,
  "losses of 1e-3": 1e-3,
  "losses of 1e-6": 1e-6,
}


def gradients(label: str, num_tasks: int) -> list[np.ndarray]:
  """Leaves [STEPS, T, *shape] of float32."""
  rng = np.random.default_rng(0)
  lengths = 10.0 ** rng.uniform(-1, 1, num_tasks)
  leaves = []
  for shape in SHAPES if GRADIENTS[label][0] else SHAPES[:1]:
    drawn = rng.standard_normal((STEPS, num_tasks, *shape))
    drawn = drawn if GRADIENTS[label][1] else np.abs(drawn)
    # Leaves of different lengths, or their means would be alike.
    drawn *= GRADIENTS[label][2] * (1 + 3 * len(leaves))
    leaf = drawn * lengths.reshape(-1, *(1 for _ in shape))
    leaves.append(leaf.astype(np.float32))
  return leaves


#: Label -> whether of two leaves, of both signs, and their size.
GRADIENTS: Mapping[str, tuple[bool, bool, float]] = {
  "one leaf": (False, False, 10.0),
  "two leaves": (True, False, 10.0),
  "both signs": (True, True, 10.0),
  "gradients of 1e-6": (False, False, 1e-6),
}


# -- our side, and what is right -----------------------------------------------


#: What `parity.cell` compares.
Sides = dict[str, np.ndarray]


def _reference(name: str, values: np.ndarray, **kwargs: Any) -> np.ndarray:
  """Weights [STEPS, T] of losses by the method's reference, in float64."""
  extra = {"losses": values.astype(np.float64)}
  return REFERENCES[name](values.shape[1], _eyes(values), extra, **kwargs)


def _eyes(values: np.ndarray) -> np.ndarray:
  """Gradients [STEPS, T, T] whose updates are the weights."""
  return np.tile(np.eye(values.shape[1], dtype=np.float32), (STEPS, 1, 1))


def _ours(
  tx: Any, grads: Sequence[np.ndarray], values: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Updates of the first leaf and weights, [STEPS, …] each."""
  state = tx.init([jnp.zeros(leaf.shape[2:]) for leaf in grads])
  step, updates, weights = jax.jit(tx.update), [], []
  for t in range(STEPS):
    extra = {} if values is None else {"losses": jnp.asarray(values[t])}
    update, state = step([jnp.asarray(x[t]) for x in grads], state, **extra)
    updates.append(np.asarray(update[0]))
    weights.append(np.asarray(state.weights))
  return np.stack(updates), np.stack(weights)


# -- their side ----------------------------------------------------------------


def _components(names: Sequence[str], values: Sequence[Any]) -> Any:
  """A value for each term, as jinns keeps its losses."""
  from jinns.loss import _loss_components as kinds

  if len(names) == len(ODE):
    return kinds.ODEComponents(**dict(zip(names, values, strict=True)))
  return kinds.PDENonStatioComponents(
    norm_loss=None, **dict(zip(names, values, strict=True))
  )


def _of_losses(name: str, values: np.ndarray, **kwargs: Any) -> np.ndarray:
  """The weights [STEPS, 4] of a rule of jinns' that reads losses."""
  from jinns.loss import _loss_weight_updates as updates

  rule = jax.jit(getattr(updates, name), static_argnames=tuple(kwargs))
  stored = _components(PDE, [jnp.asarray(column) for column in values.T])
  ones = _components(PDE, [jnp.ones(())] * len(PDE))
  key, out = jax.random.key(0, impl="threefry2x32"), []
  for t in range(STEPS):
    now = _components(PDE, [jnp.asarray(x) for x in values[t]])
    key, draw = jax.random.split(key)  # as `relobralo` with seed 0 draws
    args = {
      "prior_loss": (stored,),
      "soft_adapt": (now, stored),
      "ReLoBRaLo": (now, stored, draw),
    }[name]
    out.append(np.asarray(rule(ones, t, *args, **kwargs)))
  return np.stack(out)


def _of_gradients(
  names: Sequence[str], leaves: Sequence[np.ndarray]
) -> np.ndarray:
  """The weights [STEPS, T] of jinns' annealing."""
  from jinns.loss import _loss_weight_updates as updates

  weights, out = _components(names, [jnp.ones(())] * len(names)), []
  rule = jax.jit(updates.lr_annealing)
  for t in range(STEPS):
    terms = [
      [jnp.asarray(leaf[t, i]) for leaf in leaves] for i in range(len(names))
    ]
    new = rule(weights, _components(names, terms))
    weights = jax.tree.unflatten(jax.tree.structure(weights), list(new))
    out.append(np.asarray(new))
  return np.stack(out)


# -- the rows ------------------------------------------------------------------


def _power(now: np.ndarray, before: np.ndarray) -> np.ndarray:
  """The softmax of the losses' ratio, as jinns has it, in float64."""
  power = np.exp(now.astype(np.float64) / (before.astype(np.float64) + _EPS))
  return power / power.sum(axis=-1, keepdims=True)


def _soft_adapt(label: str) -> Sides:
  """Jinns divides this loss by the last one; `dwa` does so a step later."""
  values, many = losses(label), len(PDE)
  tx = optax_mtl.dwa(many, 1.0, steps_per_epoch=1)
  _, ours = _ours(tx, [_eyes(values)], values)
  right = _reference("dwa", values, steps_per_epoch=1, temperature=1.0)
  return {
    "ours": ours[2:],
    "theirs": many * _of_losses("soft_adapt", values)[1:-1],
    "right": right[2:],
    "as_known": many * _power(values[1:-1], values[:-2]),
  }


def _relobralo(label: str) -> Sides:
  """With jinns' numbers, 0.9 and 0.9; the weights of both as they are."""
  values, many = losses(label), len(PDE)
  numbers: dict[str, Any] = {"alpha": 0.9, "rho": 0.9}
  tx = optax_mtl.relobralo(many, **numbers)
  _, ours = _ours(tx, [_eyes(values)], values)
  theirs = [np.ones(many), _power(values[1], values[0])]
  for t, keeps in enumerate(drawn_lookbacks(STEPS, numbers["rho"])[2:], 2):
    last = _power(values[t - 1], values[t - 2])
    past = last if keeps else many * _power(values[t], values[0])
    theirs.append(0.9 * past + 0.1 * _power(values[t], values[t - 1]))
  return {
    "ours": ours,
    "theirs": _of_losses("ReLoBRaLo", values),
    "right": _reference("relobralo", values, **numbers),
    "as_known": np.stack(theirs),
  }


def _relobralo_of_now(label: str) -> Sides:
  """Without a past all is the softmax of the last ratio, times T here."""
  values, many = losses(label), len(PDE)
  tx = optax_mtl.relobralo(many, alpha=0.0)
  _, ours = _ours(tx, [_eyes(values)], values)
  theirs = _of_losses("ReLoBRaLo", values, decay_factor=0.0)
  return {
    "ours": ours[1:],
    "theirs": many * theirs[1:],
    "right": _reference("relobralo", values, alpha=0.0)[1:],
    "as_known": many * _power(values[1:], values[:-1]),
  }


def _prior_loss(label: str) -> Sides:
  """Jinns divides by the loss of the step before."""
  values = losses(label)
  tx = optax_mtl.log_losses(optax_mtl.equal_weighting(len(PDE)))
  ours, _ = _ours(tx, [_eyes(values)], values)
  double = values[:-1].astype(np.float64)
  return {
    "ours": ours[:-1],
    "theirs": _of_losses("prior_loss", values)[1:],
    "right": 1 / double,
    "as_known": 1 / (double + _EPS),
  }


def _annealed_as_known(
  names: Sequence[str], leaves: Sequence[np.ndarray]
) -> np.ndarray:
  """The rule with all that is known of jinns', in float64."""
  double = [leaf.astype(np.float64) for leaf in leaves]
  weights, out = np.ones(len(names)), []
  for t in range(STEPS):
    largest = max(np.abs(leaf[t, 0]).max() for leaf in double)
    means = [
      np.mean([np.abs(leaf[t, i].mean()) for leaf in double]) + _EPS
      for i in range(1, len(names))
    ]
    # Of an ordinary differential equation the two are interchanged.
    means = means[::-1] if names == ODE else means
    weights[1:] = 0.1 * weights[1:] + 0.9 * largest / np.array(means)
    out.append(weights.copy())
  return np.stack(out)


def _annealing(names: Sequence[str]) -> Callable[[str], Sides]:
  """The residual's largest entry over the mean, nine tenths new."""

  def sides(label: str) -> Sides:
    leaves = gradients(label, len(names))
    numbers: dict[str, Any] = {"relative": False, "decay": 0.1}
    _, ours = _ours(optax_mtl.lr_annealing(len(names), **numbers), leaves)
    rows = [leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves]
    grads = np.concatenate(rows, axis=2).astype(np.float64)
    return {
      "ours": ours,
      "theirs": _of_gradients(names, leaves),
      "right": REFERENCES["lr_annealing"](len(names), grads, {}, **numbers),
      "as_known": _annealed_as_known(names, leaves),
    }

  return sides


#: jinns' name -> function of a label to both sides' vectors and the right
#: ones, and the labels.
ROWS: Mapping[str, tuple[Callable[[str], Sides], Mapping[str, Any]]] = {
  "soft_adapt": (_soft_adapt, LOSSES),
  "ReLoBRaLo": (_relobralo, LOSSES),
  "ReLoBRaLo(decay_factor=0)": (_relobralo_of_now, LOSSES),
  "prior_loss": (_prior_loss, LOSSES),
  "lr_annealing": (_annealing(PDE), GRADIENTS),
  "lr_annealing, ODE": (_annealing(ODE), GRADIENTS),
}


def measure(methods: Sequence[str]) -> list[parity.Cell]:
  """A cell for each method and kind of losses or gradients."""
  cells = []
  for name in methods:
    sides, labels = ROWS[name]
    for label in labels:
      cells.append(parity.cell(name, label, **sides(label)))
  return cells


def peer_version() -> str | None:
  """The version of jinns; None without it."""
  # jinns warns of what its own modules hold.
  warnings.simplefilter("ignore")
  try:
    import jinns  # noqa: F401
  except ImportError:
    return None
  return metadata.version("jinns")


def main(argv: Sequence[str] | None = None) -> int:
  """Measures and prints; returns the exit status."""
  parser = parity.add_options(
    options.new_parser("accuracy.agree_with_jinns", __doc__, as_it_is=True),
    ROWS,
  )
  args = parser.parse_args(argv)
  version = peer_version()
  if version is None:
    parser.exit(1, INSTALL + "\n")
  report = parity.Report(("jinns", version), measure(args.methods), KNOWN)
  return parity.finish(report, args)


if __name__ == "__main__":
  raise SystemExit(main())
