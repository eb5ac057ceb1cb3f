"""The methods that TorchJD has too: how either side builds and runs them."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np

import optax_mtl
from benchmarks.common import trees
from benchmarks.reference.methods.pcgrad import drawn_orders

INSTALL = (
  "TorchJD is not installed. To compare with it, install torch (a CPU build, "
  "from the index that PyTorch's own instructions name: pip install torch "
  "--index-url ...), then the extra of this project that holds the peers: "
  "pip install -e '.[bench,peers]'."
)

#: CAGrad's radius and FairGrad's exponent, on either side.
C = 0.5
ALPHA = 2.0


def fixed_weights(num_tasks: int) -> np.ndarray:
  """The weights [T] of `fixed_weighting`, on either side."""
  return np.linspace(0.5, 1.5, num_tasks, dtype=np.float32)


def _nothing(num_tasks: int) -> dict[str, Any]:
  del num_tasks
  return {}


@dataclasses.dataclass(frozen=True)
class Method:
  """How a method is built on either side.

  Attributes:
    peer: Function `(torchjd.aggregation, torch, T)` to an aggregator.
    kwargs: Function of T: what ours is built with besides `num_tasks`.
    peer_has_weights: Whether the aggregator is asked for its weights, of which
      the update is the sum.
    note: Which conventions had to be brought together, if any.
  """

  peer: Callable[[Any, Any, int], Any]
  kwargs: Callable[[int], dict[str, Any]] = _nothing
  peer_has_weights: bool = False
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


#: In the order of the tables. What is right for each says
#: `benchmarks.accuracy.judge`.
METHODS: dict[str, Method] = {
  "equal_weighting": Method(lambda a, torch, t: a.Sum()),
  "fixed_weighting": Method(
    lambda a, torch, t: a.Constant(torch.from_numpy(fixed_weights(t))),
    lambda t: {"weights": fixed_weights(t)},
  ),
  "mgda": Method(lambda a, torch, t: a.MGDA()),
  "pcgrad": Method(
    lambda a, torch, t: a.PCGrad(),
    note="each side is held against the surgery in the orders that it drew",
  ),
  "cagrad": Method(
    lambda a, torch, t: a.CAGrad(C),
    lambda t: {"c": C, "rescale": 0},
    note="c = 0.5, no rescaling, which TorchJD does not have",
  ),
  "upgrad": Method(lambda a, torch, t: a.UPGrad()),
  "dual_proj": Method(lambda a, torch, t: a.DualProj()),
  "nash_mtl": Method(
    lambda a, torch, t: a.NashMTL(t),
    peer_has_weights=True,
    note="TorchJD starts from its last weights: where one matrix is timed over "
    "and over (T P > 2^18), from the solution",
  ),
  "fairgrad": Method(
    lambda a, torch, t: a.FairGrad(ALPHA),
    lambda t: {"alpha": ALPHA},
    peer_has_weights=True,
    note="alpha = 2; ours clips the norm too",
  ),
  "imtl_g": Method(
    lambda a, torch, t: a.IMTLG(),
    note="with more tasks than parameters the two take different "
    "pseudo-inverses, and each is held against its own",
  ),
  "aligned_mtl": Method(
    lambda a, torch, t: a.AlignedMTL(),
    note="rank decided at float32's roundings, as both sides do",
  ),
  "conflict_free": Method(lambda a, torch, t: a.ConFIG()),
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
    shapes: trees.Shapes,
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

  def __call__(self) -> Any:
    """Runs on the next matrix in turn, and waits for the result."""
    return jax.block_until_ready(self._function(*next(self._turn)))

  def answer(self) -> Answer:
    """On the first matrix."""
    updates, state = self._function(*self.args)
    weights = np.asarray(state.weights)
    orders = None
    if self.name == "pcgrad":
      (orders,) = drawn_orders(1, len(weights))
    return Answer("ours", trees.as_vector(updates), weights, orders)


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
    start = time.perf_counter()
    self._first = self._answer()
    self.first_seconds = time.perf_counter() - start

  def __call__(self) -> Any:
    """Runs on the next matrix in turn."""
    return self._aggregator(next(self._turn))

  def _answer(self) -> Answer:
    torch, num_tasks = self._torch, len(self._matrices[0])
    orders = weights = None
    if self.name == "pcgrad":
      torch.manual_seed(0)
      orders = np.stack([torch.randperm(num_tasks) for _ in range(num_tasks)])
    torch.manual_seed(0)
    if METHODS[self.name].peer_has_weights:
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
  if threads:
    torch.set_num_threads(threads)
  return f"{metadata.version('torchjd')} on torch {torch.__version__}"
