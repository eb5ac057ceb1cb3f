"""What a diagnosis found, in one picture."""

from typing import TYPE_CHECKING

import numpy as np

from optax_mtl.plot import _drawing

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

  from optax_mtl.diagnosis import Diagnosis

#: Up to so many rows and columns the cells of a matrix have their numbers.
_NUMBERED = 12
#: Leaves that are drawn, those with the longest gradients.
_LEAVES = 20


def diagnosis(found: "Diagnosis") -> "Figure":
  """Lengths and noise, cosines, who trains which leaf, and the costs.

  Args:
    found: What `optax_mtl.diagnose` returned.

  Returns:
    The figure: four panels, three if no costs were measured.

  Raises:
    ImportError: matplotlib is not installed.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax_mtl
    >>> losses = lambda params, x: [jnp.sum(params * x), jnp.sum(params**2)]
    >>> found = optax_mtl.diagnose(
    ...   losses, jnp.ones(2), [jnp.ones(2), jnp.zeros(2)], costs=False
    ... )
    >>> [axes.get_title() for axes in diagnosis(found).axes[:3]]
    ['gradients on the trunk', 'cosines', 'who trains which leaf']
  """
  tasks = len(found.names)
  panels = 4 if found.costs else 3
  height = max(3.4, 0.3 * max(tasks, min(len(found.leaves), _LEAVES)) + 1.2)
  figure, axes, _ = _drawing.new_figure(1, panels, 4.0, height, 0)
  _lengths(axes[0, 0], found)
  _cosines(axes[0, 1], found)
  _leaves(axes[0, 2], found)
  if found.costs:
    _costs(axes[0, 3], found)
  return figure


def _lengths(ax: "Axes", found: "Diagnosis") -> None:
  statistics = found.statistics
  rows = np.arange(len(found.names))
  with np.errstate(invalid="ignore"):
    lengths = np.sqrt(_column_means(statistics.norms**2))
  ax.plot(
    lengths,
    rows,
    linestyle="none",
    marker="o",
    color=_drawing.COLOURS[0],
    label="length",
  )
  if np.isfinite(statistics.noise).any():
    ax.plot(
      statistics.noise,
      rows,
      linestyle="none",
      marker="D",
      color=_drawing.COLOURS[1],
      label="noise",
    )
    ax.legend(frameon=False, fontsize="small")
  ax.set_yticks(rows, found.names)
  # Half a row of room; the first task is on top.
  ax.set_ylim(len(rows) - 0.5, -0.5)
  if np.nanmin(np.append(lengths, np.inf)) > 0:
    ax.set_xscale("log")
  ax.set_title("gradients on the trunk", fontsize="medium")


def _column_means(values: np.ndarray) -> np.ndarray:
  """Means [T] over the batches that count; NaN for none."""
  known = np.isfinite(values)
  total = np.where(known, values, 0).sum(axis=0)
  number = known.sum(axis=0)
  return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _matrix(
  ax: "Axes", values: np.ndarray, colours: str, low: float, high: float
) -> None:
  """A matrix as coloured cells, with its numbers where they fit."""
  ax.grid(visible=False)
  ax.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
  if max(values.shape) <= _NUMBERED:
    for (i, j), value in np.ndenumerate(values):
      if np.isfinite(value):
        ax.text(
          j,
          i,
          f"{value:.2f}",
          ha="center",
          va="center",
          fontsize=7,
          # On the palettes' dark ends black is hard to read.
          color="white" if abs(value) > 0.6 * high else "black",
        )


def _cosines(ax: "Axes", found: "Diagnosis") -> None:
  cosines = found.statistics.mean_cosines
  _matrix(ax, cosines, "RdBu", -1, 1)
  places = np.arange(len(found.names))
  ax.set_xticks(places, found.names, rotation=90)
  ax.set_yticks(places, found.names)
  ax.set_title("cosines", fontsize="medium")


def _leaves(ax: "Axes", found: "Diagnosis") -> None:
  """Which share of its gradient's square each task has in a leaf."""
  leaves = sorted(found.leaves, key=lambda leaf: -float(leaf.norms.max()))
  leaves = leaves[:_LEAVES]
  squares = np.array([leaf.norms**2 for leaf in leaves])
  total = np.sum([leaf.norms**2 for leaf in found.leaves], axis=0)
  _matrix(ax, squares / np.where(total > 0, total, 1), "Blues", 0, 1)
  ax.set_xticks(np.arange(len(found.names)), found.names, rotation=90)
  ax.set_yticks(
    np.arange(len(leaves)), [leaf.name for leaf in leaves], fontsize="small"
  )
  ax.set_title("who trains which leaf", fontsize="medium")


def _costs(ax: "Axes", found: "Diagnosis") -> None:
  rows = np.arange(len(found.costs))
  ax.barh(
    rows,
    [cost.times_plain for cost in found.costs],
    color=_drawing.COLOURS[2],
  )
  ax.set_yticks(rows, [cost.source for cost in found.costs])
  ax.invert_yaxis()
  ax.axvline(1, color=_drawing.GREY, linewidth=0.8)
  ax.set_title("time of an update, × summed loss", fontsize="medium")
