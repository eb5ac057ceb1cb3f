"""How fast solvers arrive."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from optax_mtl.plot import _arrays, _drawing

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def gap_curves(
  gaps: Mapping[str, ArrayLike],
  *,
  iterations: ArrayLike | None = None,
  floor: float = 1e-8,
  xlabel: str = "iteration",
  ylabel: str = "relative duality gap",
) -> "Figure":
  """How fast solvers close their gap, on a logarithmic axis.

  Args:
    gaps: Label to [iterations] or [problems, iterations]. With several problems
      the line is their median, the band reaches from quartile to quartile.
    iterations: [iterations], where the points lie; 0, 1, ... by default.
    floor: Smaller gaps, zeros among them, are drawn here, on a dotted line:
      below the rounding of the numbers they say nothing.
    xlabel: Label of the horizontal axis.
    ylabel: Label of the vertical axis.

  Returns:
    The figure.

  Raises:
    ValueError: The shapes do not fit, or `floor` is not positive.
    ImportError: matplotlib is not installed.

  Example:
    >>> figure = gap_curves({"plain": [1.0, 0.5], "exact": [1.0, 0.0]})
    >>> figure.axes[0].get_yscale()
    'log'
  """
  what = "[iterations] or [problems, iterations]"
  arrays = _arrays.as_mapping("gaps", gaps, what, 2)
  if not floor > 0:
    raise ValueError(f"floor must be positive; got {floor}.")
  figure, axes, legend = _drawing.new_figure(1, 1, 5.0, 3.8, len(gaps))
  ax = axes[0, 0]
  handles = []
  for index, (label, curves) in enumerate(arrays.items()):
    curves = np.maximum(curves, floor)
    x = np.arange(curves.shape[1])
    if iterations is not None:
      x = _arrays.x_values(iterations, curves.shape[1])
    style = _drawing.line_style(index)
    handles += ax.plot(x, np.median(curves, axis=0), label=label, **style)
    if len(curves) > 1:
      low, high = np.quantile(curves, [0.25, 0.75], axis=0)
      ax.fill_between(x, low, high, color=style["color"], alpha=0.12, lw=0)
  ax.axhline(
    floor, color=_drawing.GREY, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1
  )
  _drawing.log_scale(ax)
  ax.set_xlabel(xlabel)
  ax.set_ylabel(ylabel)
  legend(handles)
  return figure
