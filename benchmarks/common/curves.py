"""Pictures whose curves know their names, for the HTML page."""

import html
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from matplotlib.figure import Figure
  from matplotlib.lines import Line2D

#: Starts the id of a curve's group in the SVG.
_MARK = "curve:"


def _look(line: "Line2D") -> tuple[Any, ...]:
  """What tells a line from others: a method looks the same in all panels."""
  return line.get_color(), line.get_linestyle(), line.get_marker()


def _name_lines(figure: "Figure") -> bool:
  """Gives every line the id of the label that it, or its like, has."""
  lines = [line for axes in figure.axes for line in axes.lines]
  # matplotlib's own labels start with an underscore, and mean none.
  labels = {
    line: str(line.get_label())
    for line in lines
    if not str(line.get_label()).startswith("_")
  }
  by_look = {_look(line): label for line, label in labels.items()}
  for line in lines:
    name = labels.get(line, by_look.get(_look(line)))
    if name is not None:
      line.set_gid(_MARK + name)
  return bool(labels)


def as_svg(figure: "Figure") -> str | None:
  """The figure as an SVG element whose curves are `<g class="curve">`.

  Each has its label in `data-name`. Lines without a label take that of a line
  that looks the same: in several panels one speaks for all.

  Args:
    figure: A picture.

  Returns:
    The element; None if no line has a label, as in pictures of fields.
  """
  if not _name_lines(figure):
    return None
  import matplotlib as mpl

  out = io.StringIO()
  # Text as text: a page has fonts, and the outlines of letters are most of a
  # picture's size.
  with mpl.rc_context({"svg.fonttype": "none"}):
    figure.savefig(out, format="svg")
  svg = out.getvalue()
  svg = svg[svg.index("<svg") :]

  def group(match: re.Match[str]) -> str:
    name = html.escape(html.unescape(match[2]), quote=True)
    return f'<g class="curve" data-name="{name}">'

  # matplotlib quotes with ' what has a " in it.
  return re.sub(rf"""<g id=(["']){_MARK}(.*?)\1>""", group, svg)
