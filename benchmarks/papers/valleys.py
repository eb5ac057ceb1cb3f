"""The two-task landscape that papers draw, with every method from every start.

Two losses of two parameters: steep valleys with conflicting gradients lead to a
shallow basin that holds the Pareto front. Each method, before Adam at a rate of
1e-3, goes from all starts in one vmapped and jitted run. Counted is how many
come within 1 % of the front's extent in both losses, beside what papers report
in words; drawn are the paths in the plane of the losses.

The twin of the landscape has its first loss `ℓ` replaced by `ℓ³|ℓ|`, which is
smaller and larger where that is: a direction that changes with it depends on
how a loss is measured, and not on what it prefers. Compared are first steps, at
points all over the landscape.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import track

import optax_mtl
from benchmarks.common import options, output
from benchmarks.common.examples import example
from benchmarks.data import toys
from benchmarks.papers import _report
from optax_mtl.plot._drawing import COLOURS, GREY, bare_axes

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_RATE = 1e-3
#: Points of a path that are drawn.
_DRAWN = 500
#: Within so much of the front's extent a point has reached it.
_REACHED = 0.01
#: Points at which first steps are compared, and how near cosines have to be to
#: 1: both are computed in float64, by solvers that stop at some 1e-8.
_COMPARED = 200
_SAME = 1e-6


class Setting(NamedTuple):
  """How a paper draws the landscape.

  Attributes:
    scale: Factor on the first loss.
    steps: Of Adam.
    said: Method -> starts that reach the front, as the captions of papers say;
      in brackets whose, where it is another than the setting's.
  """

  scale: float
  steps: int
  said: Mapping[str, str]


#: Of Nash-MTL and FAMO, whose runs had 50,000 steps, and of CAGrad.
SETTINGS = {
  "nash": Setting(
    0.1,
    35_000,
    {
      "nash_mtl": "5",
      "equal_weighting": "4 (FAMO)",
      "famo": "5 (FAMO)",
      "cagrad": "5 (ConicGrad)",
      "conic_grad": "5 (ConicGrad)",
    },
  ),
  "cagrad": Setting(
    1.0,
    100_000,
    {"cagrad": "3", "mgda": "3", "pcgrad": "3", "equal_weighting": "1"},
  ),
}

#: The second loss is above this, and the first above as much times the scale.
_MINIMUM = -20.1


def _arguments(name: str, first_minimum: float) -> Mapping[str, Any]:
  """What a method has to be told about the landscape."""
  if name == "famo":
    return {"min_losses": [first_minimum, _MINIMUM]}
  if name == "fixed_weighting":
    return {"weights": [1.0, 2.0]}
  return {}


#: Row -> the method, and arguments beside those of its registered example.
VARIANTS: Mapping[str, tuple[str, dict[str, Any]]] = {
  "mgda-l2": ("mgda", {"normalize": "l2"}),
  "fairgrad-2": ("fairgrad", {"alpha": 2.0}),
  "famo-no-decay": ("famo", {"decay": 0.0}),
}

#: Extra args that the landscape has.
_KNOWN = {"losses", "preference", "second_grads", "previous_losses"}


def labels() -> list[str]:
  """The rows: every method whose extra args the landscape has, and variants."""
  fit = [n for n in optax_mtl.METHODS if set(example(n, 2)[1]) <= _KNOWN]
  return sorted([*fit, *VARIANTS])


def build(
  label: str, first_minimum: float
) -> optax.GradientTransformationExtraArgs:
  """The method of a row, for two tasks; the first loss is above a number."""
  name, more = VARIANTS.get(label, (label, {}))
  method = optax_mtl.METHODS[name]
  given = dict(method.info.example((0, 1)))
  return method(2, **(given | dict(_arguments(name, first_minimum)) | more))


_Losses = Callable[[jax.Array], jax.Array]


def _step(
  losses_of: _Losses, tx: optax.GradientTransformationExtraArgs
) -> Callable[[jax.Array, Any], tuple[jax.Array, Any, jax.Array]]:
  """From params and state to the update, the state and the losses."""
  losses_and_grads = optax_mtl.value_and_task_grads(losses_of)

  def step(params: jax.Array, state: Any) -> tuple[jax.Array, Any, jax.Array]:
    losses, grads = losses_and_grads(params)
    # There is no noise: a second batch is the first, and the last batch's
    # losses after its step are those now.
    updates, state = tx.update(
      grads,
      state,
      params,
      losses=losses,
      previous_losses=losses,
      second_grads=grads,
      preference=jnp.full((2,), 0.5**0.5, losses.dtype),
    )
    return updates, state, losses

  return step


def paths(label: str, setting: Setting) -> np.ndarray:
  """Where a method goes from all starts.

  Args:
    label: One of `labels()`.
    setting: How.

  Returns:
    The losses on the way, [starts, points, 2], in steps of equal number; NaN
    from where something was not finite.
  """
  toy = toys.valleys(setting.scale)
  tx = optax.chain(build(label, setting.scale * _MINIMUM), optax.adam(_RATE))
  step = _step(toy.losses, tx)
  between = max(1, setting.steps // _DRAWN)

  def move(carry: Any, _: None) -> tuple[Any, jax.Array]:
    def one(_: jax.Array, carry: Any) -> Any:
      params, state = carry
      updates, state, _ = step(params, state)
      return optax.apply_updates(params, updates), state

    losses = toy.losses(carry[0])
    return jax.lax.fori_loop(0, between, one, carry), losses

  def whole(start: jax.Array) -> jax.Array:
    count = math.ceil(setting.steps / between)
    (params, _), before = jax.lax.scan(
      move, (start, tx.init(start)), length=count
    )
    return jnp.concatenate([before, toy.losses(params)[None]])

  starts = jnp.asarray(toy.starts, jnp.float32)
  return np.asarray(jax.jit(jax.vmap(whole))(starts))


def reached(ends: np.ndarray, front: np.ndarray) -> np.ndarray:
  """Which points [S, 2] have reached the front [F, 2]; bool [S]."""
  extent = front.max(axis=0) - front.min(axis=0)
  gaps = np.abs(ends[:, None] - front[None]) / extent
  # NaN is nowhere near.
  return (gaps.max(axis=-1) <= _REACHED).any(axis=-1)


def twin(losses_of: _Losses) -> _Losses:
  """The losses, the first one `ℓ` as `ℓ³|ℓ|`: the same order of its values."""

  def losses(params: jax.Array) -> jax.Array:
    first, second = losses_of(params)
    return jnp.stack([first**3 * jnp.abs(first), second])

  return losses


def first_steps(
  label: str, losses_of: _Losses, first_minimum: float, points: jax.Array
) -> jax.Array:
  """The update that each point [N, 2] gets first, [N, 2].

  That is the second one at the same point: M-ConFIG gives none before each task
  has had its turn.
  """
  tx = build(label, first_minimum)
  step = _step(losses_of, tx)

  def update(point: jax.Array) -> jax.Array:
    return step(point, step(point, tx.init(point))[1])[0]

  return jax.jit(jax.vmap(update))(points)


def keeps_direction(label: str) -> float:
  """The smallest cosine between first steps on the landscape and its twin.

  Of a method that needs positive losses it is NaN.
  """
  with jax.enable_x64(True):
    toy = toys.valleys(1.0)
    key = jax.random.key(0)
    shape = (_COMPARED, 2)
    points = jax.random.uniform(key, shape, minval=-10.0, maxval=10.0)
    pair = [
      np.asarray(first_steps(label, fun, minimum, points))
      for fun, minimum in (
        (toy.losses, _MINIMUM),
        (twin(toy.losses), -(_MINIMUM**4)),
      )
    ]
  one, other = (np.linalg.norm(x, axis=1) for x in pair)
  # Where either stands still there is no direction: MGDA's at stationarity.
  small = (one <= 1e-6 * np.median(one)) | (other <= 1e-6 * np.median(other))
  with np.errstate(invalid="ignore", divide="ignore"):
    cosines = np.sum(pair[0] * pair[1], axis=1) / (one * other)
  return float(np.min(cosines[~small], initial=1.0))


def run(
  names: Sequence[str],
  settings: Mapping[str, Setting],
  console: Any = None,
) -> list[dict[str, Any]]:
  """All rows: paths and ends in each setting, directions, seconds."""
  fronts = {k: toys.valleys(s.scale).front(2001) for k, s in settings.items()}
  rows: list[dict[str, Any]] = []
  for label in track(names, "going downhill", console=console):
    begin = time.perf_counter()
    found: dict[str, dict[str, Any]] = {}
    for key, setting in settings.items():
      path = paths(label, setting)
      arrived = reached(path[:, -1], fronts[key])
      found[key] = {
        "paths": path,
        "reached": int(arrived.sum()),
        "starts": len(arrived),
        "said": setting.said.get(label),
      }
    rows.append(
      {
        "method": label,
        "settings": found,
        "cosine": keeps_direction(label),
        "seconds": time.perf_counter() - begin,
      }
    )
  return rows


def _direction(cosine: float) -> str:
  """What the smallest cosine says."""
  if math.isnan(cosine):
    return "needs positive losses"
  if cosine >= 1 - _SAME:
    return "kept"
  if cosine > 0.995:  # Which two digits would show as 1.
    return f"nearly kept, cosine 1 - {1 - cosine:.0e}"
  return f"changes, cosine {cosine:+.2f}"


def _cells(row: Mapping[str, Any]) -> list[str]:
  """A row of the table: two columns for each setting."""
  cells = [row["method"]]
  for found in row["settings"].values():
    cells += [f"{found['reached']} of {found['starts']}", found["said"] or "–"]
  return [*cells, _direction(row["cosine"])]


def figure(
  rows: Sequence[Mapping[str, Any]],
  key: str,
  front: np.ndarray,
  columns: int = 7,
) -> "Figure":
  """A panel for each method: the paths in the plane of the losses."""
  from matplotlib.figure import Figure

  lines = -(-len(rows) // columns)
  picture = Figure(figsize=(2 * columns, 1.9 * lines), layout="constrained")
  axes = picture.subplots(
    lines, columns, squeeze=False, sharex=True, sharey=True
  )
  for ax in axes.flat[len(rows) :]:
    ax.axis("off")
  for row, ax in zip(rows, axes.flat, strict=False):
    found = row["settings"][key]
    bare_axes(ax)
    ax.plot(*front.T, color=GREY, linewidth=3, alpha=0.6)
    for index, path in enumerate(found["paths"]):
      ax.plot(*path.T, color=COLOURS[index], linewidth=1)
      ax.plot(*path[0], "o", color=COLOURS[index], markersize=3)
      ax.plot(*path[-1], "*", color=COLOURS[index], markersize=6)
    title = f"{row['method']}  {found['reached']}/{found['starts']}"
    ax.set_title(title, fontsize="small")
  picture.supxlabel("loss 1", fontsize="small")
  picture.supylabel("loss 2", fontsize="small")
  return picture


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the table; writes JSON and the picture."""
  parser = options.new_parser("papers.valleys", __doc__)
  parser.add_argument(
    "--settings", type=options.words, default=",".join(SETTINGS), help="whose"
  )
  parser.add_argument(
    "--methods", type=options.words, default=",".join(labels()), help="rows"
  )
  parser.add_argument("--steps", type=int, default=0, help="0: the papers'")
  parser.add_argument(
    "--markdown", action="store_true", help="print the table for the docs"
  )
  options.add_out(parser, "papers", "valleys")
  args = parser.parse_args(argv)
  options.check_known(parser, "methods", args.methods, labels())
  options.check_known(parser, "settings", args.settings, list(SETTINGS))
  settings = {key: SETTINGS[key] for key in args.settings}
  if args.steps:
    settings = {
      key: setting._replace(steps=args.steps)
      for key, setting in settings.items()
    }
  console = output.new_console()
  rows = run(args.methods, settings, console)

  def place(row: Mapping[str, Any]) -> tuple[int, str]:
    arrived = sum(found["reached"] for found in row["settings"].values())
    return -arrived, row["method"]

  rows.sort(key=place)
  columns = ["method"]
  for key, setting in settings.items():
    columns += [f"{key}, {setting.steps:,} steps", "papers"]
  columns.append("direction on the twin")
  cells = [_cells(row) for row in rows]
  _report.print_table(
    "how many starts end on the front",
    [*columns, "s"],
    [
      [*line, f"{row['seconds']:.0f}"]
      for line, row in zip(cells, rows, strict=True)
    ],
    [
      "Not here: what needs extra args that a landscape has not (dtp, "
      "ntk_weighting). NaN has not reached the front.",
    ],
  )
  if args.markdown:
    text = output.markdown(columns, cells)
    console.print(text, markup=False, soft_wrap=True)
  figures = {
    key: figure(rows, key, toys.valleys(setting.scale).front(400))
    for key, setting in settings.items()
  }
  _report.write(args, "valleys", {"rows": rows}, figures)
  return 0


if __name__ == "__main__":
  raise SystemExit(main())
