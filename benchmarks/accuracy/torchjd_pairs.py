"""The methods that TorchJD has too, as runs of some steps on either side.

Both sides get the same gradients, and the same draws: numbers that this package
draws stand in for torch's generator while TorchJD runs.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Generator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import optax_mtl
from benchmarks.accuracy import judge
from benchmarks.common import contenders
from benchmarks.common.contenders import ALPHA, C, fixed_weights
from benchmarks.reference.methods import REFERENCES
from benchmarks.reference.methods.graddrop import drawn_uniforms
from benchmarks.reference.methods.pcgrad import drawn_orders
from benchmarks.reference.methods.rlw import drawn_numbers

#: Share of the old weights under CR-MOGM, and ExcessMTL's rate, on either side.
_DECAY = 0.9
EXCESS_RATE = 0.5


@dataclasses.dataclass(frozen=True)
class Run:
  """Gradients [steps, T, P] of float32; a second batch's for who needs it."""

  grads: np.ndarray
  second: np.ndarray

  @property
  def num_tasks(self) -> int:
    """T."""
    return self.grads.shape[1]


#: A function of a run to the right updates [steps, P], in float64.
Right = Callable[[Run], np.ndarray]
#: A function of a run to the arrays that are drawn, in the order of the calls.
Draws = Callable[[Run], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Pair:
  """One method on both sides, with settings that match.

  Attributes:
    name: Ours.
    theirs: Function `(torchjd.aggregation, torch, T)` to an aggregator, or to a
      weighting if `cross`.
    right: What both should do.
    settings: Function of T to our keyword arguments.
    build: What makes ours of T and the keyword arguments, if not the name does.
    draws: Name of a function of torch -> what it shall return.
    cross: Whether it reads the products with a second batch's gradients.
    alone: Whether the peer starts each step anew: what it remembers is only
      where its solver starts.
    fewest: Tasks that it needs.
  """

  name: str
  theirs: Callable[[Any, Any, int], Any]
  right: Right
  settings: Callable[[int], Mapping[str, Any]] = lambda num_tasks: {}
  build: Callable[..., Any] | None = None
  draws: Mapping[str, Draws] = dataclasses.field(default_factory=dict)
  cross: bool = False
  alone: bool = False
  fewest: int = 2

  def ours(self, num_tasks: int) -> Any:
    """Our transformation."""
    build = self.build or getattr(optax_mtl, self.name)
    return build(num_tasks, **self.settings(num_tasks))

  def run_ours(self, run: Run, jitted: dict[Any, Any]) -> np.ndarray:
    """Our updates [steps, P], compiled once for each kind of run."""
    tx = self.ours(run.num_tasks)
    key = (self.name, repr(self.settings(run.num_tasks)), run.grads.shape[1:])
    step = jitted.setdefault(key, jax.jit(tx.update))
    state, updates = tx.init(jnp.zeros(run.grads.shape[2])), []
    for grads, second in zip(run.grads, run.second, strict=True):
      extra = {"second_grads": jnp.asarray(second)} if self.cross else {}
      update, state = step(jnp.asarray(grads), state, **extra)
      updates.append(np.asarray(update))
    return np.stack(updates)

  def run_theirs(self, run: Run) -> np.ndarray:
    """TorchJD's updates [steps, P]."""
    import torch
    from torchjd import aggregation

    def fresh() -> Any:
      return self.theirs(aggregation, torch, run.num_tasks)

    peer, updates = fresh(), []
    with handed(torch, {name: f(run) for name, f in self.draws.items()}):
      for grads, second in zip(run.grads, run.second, strict=True):
        matrix = torch.from_numpy(grads)
        peer = fresh() if self.alone else peer
        with warnings.catch_warnings():
          # Of solvers that did not get as far as they should: that shows.
          warnings.simplefilter("ignore")
          if self.cross:
            update = peer(matrix @ torch.from_numpy(second).T) @ matrix
          else:
            update = peer(matrix)
        updates.append(update.numpy())
    return np.stack(updates)


@contextlib.contextmanager
def handed(
  torch: Any, draws: Mapping[str, list[np.ndarray]]
) -> Generator[None]:
  """For a time, functions of torch return what they are told to.

  Args:
    torch: The module.
    draws: Name of a function -> the arrays that its calls return, in turn.

  Raises:
    RuntimeError: It was called more often, less often, or for another shape: it
      would not be the same draw.
  """
  with contextlib.ExitStack() as stack:
    left = {name: list(arrays) for name, arrays in draws.items()}

    def draw(name: str, size: Any) -> Any:
      shape = (size,) if isinstance(size, int) else tuple(size)
      if not left[name] or left[name][0].shape != shape:
        raise RuntimeError(f"TorchJD calls torch.{name}({size}) unexpectedly.")
      return torch.from_numpy(np.ascontiguousarray(left[name].pop(0)))

    for name in draws:
      stand_in = lambda size, name=name, **kwargs: draw(name, size)  # noqa: E731
      stack.enter_context(mock.patch.object(torch, name, stand_in))
    yield
    if any(left.values()):
      raise RuntimeError(f"TorchJD has not drawn all of {list(draws)}.")


# -- what is right -------------------------------------------------------------


def weighted(run: Run, weights: np.ndarray) -> np.ndarray:
  """The updates [steps, P] of weights [steps, T]."""
  return np.einsum("st,stp->sp", weights, run.grads.astype(np.float64))


def by(name: str, **kwargs: Any) -> Right:
  """The reference of that name; a value that is a function is one of T."""

  def right(run: Run) -> np.ndarray:
    given = {
      k: v(run.num_tasks) if callable(v) else v for k, v in kwargs.items()
    }
    found = REFERENCES[name](
      run.num_tasks,
      run.grads.astype(np.float64),
      {"second_grads": run.second.astype(np.float64)},
      **given,
    )
    of_tasks = found.shape == run.grads.shape[:2]
    return weighted(run, found) if of_tasks else found

  return right


def solved(weights: Callable[[judge.Problem], np.ndarray]) -> Right:
  """By a solution that stands dependent gradients too, step by step."""

  def right(run: Run) -> np.ndarray:
    found = [weights(judge.Problem(matrix)) for matrix in run.grads]
    return weighted(run, np.stack(found))

  return right


def _unit(right: Right) -> Right:
  """At most of length 1, as Nash-MTL's."""

  def limited(run: Run) -> np.ndarray:
    updates = right(run)
    norms = np.linalg.norm(updates, axis=1, keepdims=True)
    return updates / np.maximum(norms, 1)

  return limited


def _averaged(run: Run) -> np.ndarray:
  """CR-MOGM around weights that are drawn, from the first ones on."""
  drawn = REFERENCES["rlw"](run.num_tasks, run.grads, {})
  average, out = drawn[0], []
  for weights in drawn:
    average = _DECAY * average + (1 - _DECAY) * weights
    out.append(average)
  return weighted(run, np.stack(out))


# -- what is drawn -------------------------------------------------------------


def _orders(run: Run) -> list[np.ndarray]:
  """PCGrad's: one for each task, with itself in it."""
  return list(
    drawn_orders(len(run.grads), run.num_tasks).reshape(-1, run.num_tasks)
  )


def _orders_of_others(run: Run) -> list[np.ndarray]:
  """GradVac's: one for each task, of places among the others."""
  orders = drawn_orders(len(run.grads), run.num_tasks)
  return [
    np.array([j - (j > i) for j in order if j != i])
    for each in orders
    for i, order in enumerate(each)
  ]


def _uniforms(run: Run) -> list[np.ndarray]:
  drawn = drawn_uniforms(len(run.grads), run.grads.shape[2:])
  return list(drawn.astype(np.float32))


def _normals(run: Run) -> list[np.ndarray]:
  drawn = drawn_numbers(len(run.grads), run.num_tasks)
  return list(drawn.astype(np.float32))


# -- the pairs -----------------------------------------------------------------


def _leaks(num_tasks: int) -> np.ndarray:
  """What passes of each task under GradDrop, on either side."""
  return np.linspace(0, 0.5, num_tasks, dtype=np.float32)


def _mean(num_tasks: int) -> np.ndarray:
  return np.full(num_tasks, 1 / num_tasks)


def _trim(num_tasks: int) -> int:
  return max(1, num_tasks // 5)


def liars(num_tasks: int) -> int:
  """Krum's `f`, on either side."""
  return num_tasks // 5


def selected(num_tasks: int) -> int:
  """Krum's `m`; of one neighbour each, the two nearest have equal scores."""
  return 2 if num_tasks < 6 else 3


def _as_timed(name: str, right: Right, **changes: Any) -> Pair:
  """With the settings that the two are timed with."""
  both = contenders.METHODS[name]
  return dataclasses.replace(
    Pair(name, both.peer, right, both.kwargs), **changes
  )


_CAGRAD = _as_timed("cagrad", solved(lambda problem: problem.cagrad(C)))
_GRADVAC = Pair(
  "gradvac",
  lambda a, torch, t: a.GradVac(beta=0.5),
  by("gradvac", beta=0.5),
  lambda t: {"beta": 0.5},
  draws={"randperm": _orders_of_others},
)
_PCD = Pair(
  "pcd",
  lambda a, torch, t: a.PCD(tau=0.1, beta=0.9),
  by("pcd", tau=0.1, decay=0.9),
  lambda t: {"tau": 0.1, "decay": 0.9},
)
_SDMGRAD = Pair(
  "sdmgrad",
  lambda a, torch, t: a.SDMGradWeighting(),
  by("sdmgrad"),
  cross=True,
)

#: TorchJD's name -> the pair; once more with a setting by which an error of it
#: goes away.
PAIRS: Mapping[str, Pair] = {
  "AlignedMTL": _as_timed(
    "aligned_mtl",
    # The rank is decided at float32's roundings, as both sides do.
    by("aligned_mtl", tiny=lambda t: t * float(np.finfo(np.float32).eps)),
  ),
  "CAGrad": _CAGRAD,
  "CAGrad(norm_eps=0)": dataclasses.replace(
    _CAGRAD, theirs=lambda a, torch, t: a.CAGrad(C, norm_eps=0.0)
  ),
  "ConFIG": _as_timed("conflict_free", by("conflict_free")),
  "Constant": _as_timed(
    "fixed_weighting", by("fixed_weighting", weights=fixed_weights)
  ),
  "CRMOGMWeighting": Pair(
    "ema_weights",
    lambda a, torch, t: a.WeightedAggregator(
      a.CRMOGMWeighting(a.RandomWeighting(), alpha=_DECAY)
    ),
    _averaged,
    build=lambda t: optax_mtl.ema_weights(optax_mtl.rlw(t), _DECAY),
    draws={"randn": _normals},
  ),
  "DualProj": _as_timed("dual_proj", by("dual_proj")),
  "ExcessMTL": Pair(
    "excess_mtl",
    # With a step of warm-up the first step is the baseline, as in the paper.
    lambda a, torch, t: a.ExcessMTL(EXCESS_RATE, n_warmup_steps=1),
    by("excess_mtl", rate=EXCESS_RATE),
    lambda t: {"rate": EXCESS_RATE},
  ),
  "FairGrad": _as_timed(
    "fairgrad",
    by("fairgrad", alpha=ALPHA),
    settings=lambda t: {"alpha": ALPHA, "max_norm": None},
  ),
  "GradDrop": Pair(
    "graddrop",
    lambda a, torch, t: a.GradDrop(leak=torch.from_numpy(_leaks(t))),
    by("graddrop", leak=_leaks),
    lambda t: {"leak": _leaks(t)},
    draws={"rand": _uniforms},
  ),
  "GradVac": _GRADVAC,
  "GradVac(eps=0)": dataclasses.replace(
    _GRADVAC, theirs=lambda a, torch, t: a.GradVac(beta=0.5, eps=0.0)
  ),
  "IMTLG": _as_timed("imtl_g", solved(lambda problem: problem.imtl_g())),
  "Krum": Pair(
    "krum",
    lambda a, torch, t: a.Krum(liars(t), selected(t)),
    by("krum", num_byzantine=liars, num_selected=selected),
    lambda t: {"num_byzantine": liars(t), "num_selected": selected(t)},
    fewest=3,
  ),
  "Mean": Pair(
    "fixed_weighting",
    lambda a, torch, t: a.Mean(),
    by("fixed_weighting", weights=_mean),
    lambda t: {"weights": _mean(t)},
  ),
  "MGDA": _as_timed("mgda", solved(lambda problem: problem.mgda())),
  "MoDoWeighting": Pair(
    "modo",
    lambda a, torch, t: a.MoDoWeighting(gamma=0.1, rho=0.1),
    by("modo", gamma=0.1, rho=0.1),
    lambda t: {"gamma": 0.1, "rho": 0.1},
    cross=True,
  ),
  "NashMTL": _as_timed("nash_mtl", _unit(by("nash_mtl")), alone=True),
  "PCD": _PCD,
  "PCD(eps=0)": dataclasses.replace(
    _PCD, theirs=lambda a, torch, t: a.PCD(tau=0.1, beta=0.9, eps=0.0)
  ),
  "PCGrad": _as_timed("pcgrad", by("pcgrad"), draws={"randperm": _orders}),
  "Random": Pair(
    "rlw",
    lambda a, torch, t: a.Random(),
    by("rlw"),
    draws={"randn": _normals},
  ),
  "SDMGradWeighting": _SDMGRAD,
  # A rate with which its inner steps converge.
  "SDMGradWeighting(lr=1/T)": dataclasses.replace(
    _SDMGRAD,
    theirs=lambda a, torch, t: a.SDMGradWeighting(lr=1 / t),
    right=by("sdmgrad", learning_rate=lambda t: 1 / t),
    settings=lambda t: {"learning_rate": 1 / t},
  ),
  "Sum": _as_timed("equal_weighting", by("equal_weighting")),
  "TrimmedMean": Pair(
    "trimmed_mean",
    lambda a, torch, t: a.TrimmedMean(_trim(t)),
    by("trimmed_mean", trim=_trim),
    lambda t: {"trim": _trim(t)},
    fewest=3,
  ),
  "UPGrad": _as_timed("upgrad", by("upgrad")),
}
