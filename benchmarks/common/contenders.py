"""The methods that TorchJD has too: how either side builds and runs them."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import optax_mtl
from benchmarks.accuracy.judge import Problem
from benchmarks.common import trees
from optax_mtl.methods import pcgrad

_C = 0.5
_ALPHA = 2.0


def _fixed(num_tasks: int) -> np.ndarray:
  return np.linspace(0.5, 1.5, num_tasks, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Method:
  """How a method is built on either side.

  Attributes:
    kwargs: Function of T: what ours is built with besides `num_tasks`.
    peer: Function `(torchjd.aggregation, torch, T)` to an aggregator.
    error: Function `(problem, run)` to the relative error.
    kind: Of error; see `benchmarks.accuracy.judge`.
    note: Which conventions had to be brought together, if any.
  """

  kwargs: Callable[[int], dict[str, Any]]
  peer: Callable[[Any, Any, int], Any]
  error: Callable[[Problem, "Answer"], float]
  kind: str = "distance"
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Answer:
  """What a side returned for one matrix.

  Attributes:
    side: "ours" or "theirs".
    update: [P] of float32.
    weights: [T]; None where the side has none.
    orders: [T, T], the random orders of PCGrad; None for the others.
  """

  side: str
  update: np.ndarray
  weights: np.ndarray | None
  orders: np.ndarray | None = None


def _distance(weights: Callable[[Problem, Answer], np.ndarray]):
  def error(problem, answer):
    return problem.distance(answer.update, weights(problem, answer))

  return error


def _cagrad_error(problem: Problem, answer: Answer) -> float:
  if not problem.descent:
    return float("nan")  # the peer returns 0 there, ours the mean
  return problem.distance(answer.update, problem.cagrad(_C))


def _none(num_tasks):
  del num_tasks
  return {}


#: In the order of the tables.
METHODS: dict[str, Method] = {
  "equal_weighting": Method(
    _none,
    lambda a, torch, t: a.Sum(),
    _distance(lambda problem, _: np.ones(len(problem.gram))),
  ),
  "fixed_weighting": Method(
    lambda t: {"weights": _fixed(t)},
    lambda a, torch, t: a.Constant(torch.from_numpy(_fixed(t))),
    _distance(lambda problem, _: _fixed(len(problem.gram))),
  ),
  "mgda": Method(
    _none,
    lambda a, torch, t: a.MGDA(),
    lambda problem, answer: problem.length(answer.update),
    "length",
  ),
  "pcgrad": Method(
    _none,
    lambda a, torch, t: a.PCGrad(),
    _distance(lambda problem, answer: problem.pcgrad(answer.orders)),
    note="each side is held against the surgery in the orders that it drew",
  ),
  "cagrad": Method(
    lambda t: {"c": _C, "rescale": 0},
    lambda a, torch, t: a.CAGrad(_C),
    _cagrad_error,
    note="c = 0.5, no rescaling, which TorchJD does not have",
  ),
  "upgrad": Method(
    _none,
    lambda a, torch, t: a.UPGrad(),
    _distance(lambda problem, _: problem.upgrad()),
  ),
  "dual_proj": Method(
    _none,
    lambda a, torch, t: a.DualProj(),
    _distance(lambda problem, _: problem.dual_proj()),
  ),
  "nash_mtl": Method(
    _none,
    lambda a, torch, t: a.NashMTL(t),
    lambda problem, answer: problem.residual(answer.weights, 1.0),
    "residual",
    note="TorchJD starts from its last weights: where one matrix is timed over "
    "and over (T P > 2^18), from the solution",
  ),
  "fairgrad": Method(
    lambda t: {"alpha": _ALPHA},
    lambda a, torch, t: a.FairGrad(_ALPHA),
    lambda problem, answer: problem.residual(answer.weights, _ALPHA),
    "residual",
    note="alpha = 2; ours clips the norm too",
  ),
  "imtl_g": Method(
    _none,
    lambda a, torch, t: a.IMTLG(),
    _distance(lambda problem, answer: problem.imtl_g(answer.side == "ours")),
    note="with more tasks than parameters the two take different "
    "pseudo-inverses, and each is held against its own",
  ),
  "aligned_mtl": Method(
    _none,
    lambda a, torch, t: a.AlignedMTL(),
    _distance(lambda problem, _: problem.aligned_mtl()),
    note="rank decided at float32's roundings, as both sides do",
  ),
  "config": Method(
    _none,
    lambda a, torch, t: a.ConFIG(),
    _distance(lambda problem, _: problem.config()),
  ),
}


class Ours:
  """`jax.jit(tx.update)` on a tree, compiled and run.

  Attributes:
    update: The function that is jitted.
    args: What it is called with, for the first matrix.
    compile_seconds: Of the first call, compiling and running it.
  """

  def __init__(
    self,
    name: str,
    matrices: Sequence[np.ndarray],
    shapes: list[tuple[int, ...]],
    jitted: dict[Any, Any],
  ):
    """Builds, and compiles unless `jitted` holds it already."""
    num_tasks = len(matrices[0])
    self.name = name
    transformation = getattr(optax_mtl, name)(
      num_tasks, **METHODS[name].kwargs(num_tasks)
    )
    state = transformation.init(None)
    self.update = transformation.update
    given = [trees.as_tree(matrix, shapes) for matrix in matrices]
    self.args = (given[0], state)
    key = (name, num_tasks, tuple(shapes))
    if key not in jitted:
      function = jax.jit(transformation.update)
      start = time.perf_counter()
      jax.block_until_ready(function(*self.args))
      jitted[key] = function, time.perf_counter() - start
    self._function, self.compile_seconds = jitted[key]
    self._turn = itertools.cycle([(tree, state) for tree in given])

  def __call__(self):
    """Runs on the next matrix in turn, and waits for the result."""
    return jax.block_until_ready(self._function(*next(self._turn)))

  def answer(self) -> Answer:
    """On the first matrix."""
    updates, state = self._function(*self.args)
    orders = None
    if self.name == "pcgrad":
      orders, _ = pcgrad.draw_orders(self.args[1].order_key, len(state.weights))
      orders = np.asarray(orders)
    return Answer(
      "ours", trees.as_vector(updates), np.asarray(state.weights), orders
    )


class Theirs:
  """A TorchJD aggregator on matrices.

  Attributes:
    first_seconds: Of the first call, where a convex program is set up.
  """

  def __init__(self, name: str, matrices: Sequence[np.ndarray]):
    """Builds it and makes the first call."""
    import torch
    from torchjd import aggregation

    self._torch = torch
    self.name = name
    self._build = lambda: METHODS[name].peer(
      aggregation, torch, len(matrices[0])
    )
    self._matrices = [torch.from_numpy(matrix) for matrix in matrices]
    self._aggregator = self._build()
    self._turn = itertools.cycle(self._matrices)
    self._orders = None
    start = time.perf_counter()
    self._first = self._answer()
    self.first_seconds = time.perf_counter() - start

  def __call__(self):
    """Runs on the next matrix in turn."""
    return self._aggregator(next(self._turn))

  def _answer(self) -> Answer:
    torch, num_tasks = self._torch, len(self._matrices[0])
    orders = weights = None
    if self.name == "pcgrad":
      torch.manual_seed(0)
      orders = np.stack([torch.randperm(num_tasks) for _ in range(num_tasks)])
    torch.manual_seed(0)
    if METHODS[self.name].kind == "residual":
      weights = self._aggregator.weighting(self._matrices[0])
      update = weights @ self._matrices[0]
      weights = weights.numpy()
    else:
      update = self._aggregator(self._matrices[0])
    return Answer("theirs", update.numpy(), weights, orders)

  def answer(self) -> Answer:
    """On the first matrix, from the first call of all."""
    return self._first


def peer_version(threads: int | None) -> str | None:
  """TorchJD's version, with torch on so many threads; None without it."""
  try:
    import torch
    import torchjd  # noqa: F401
  except ImportError:
    return None
  from importlib import metadata

  if threads:
    torch.set_num_threads(threads)
  return f"{metadata.version('torchjd')} on torch {torch.__version__}"


def ready() -> None:
  """Starts the backend, so that no method pays for it."""
  jnp.zeros(()).block_until_ready()
