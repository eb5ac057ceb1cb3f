"""Pictures: what is drawn, that nothing overlaps, that matplotlib is lazy."""

import csv
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import colors  # noqa: E402

from optax_mtl import plot  # noqa: E402
from optax_mtl.plot import _arrays, _drawing  # noqa: E402

LABELS = tuple(f"method_number_{index}" for index in range(40))


def curves(labels, *shape):
  rng = np.random.default_rng(0)
  return {label: rng.uniform(0.5, 1.5, size=shape) for label in labels}


def training_log(names, steps=20):
  """As rows of `optax_mtl.diagnostics`; the first task comes and goes."""
  rng = np.random.default_rng(1)
  rows = []
  for step in range(steps):
    row = {"step": 10 * step, "alignment": rng.uniform(-1, 1)}
    row["conflict_rate"] = rng.uniform()
    for name in names:
      row[f"weight/{name}"], row[f"norm/{name}"] = rng.uniform(0.5, 1.5, 2)
      row[f"effective_rate/{name}"] = rng.normal()
      row[f"present/{name}"] = step % 2 if name == names[0] else 1.0
    rows.append(row)
  return rows


# Every function with many methods, seeds and tasks.
FIGURES = {
  "learning_curves": lambda n: plot.learning_curves(
    curves(LABELS[:n], 3, 20, 7), log=True, smooth=3
  ),
  "weights_over_time": lambda n: plot.weights_over_time(
    curves(LABELS[:n], 3, 20, 7)
  ),
  "trade_off": lambda n: plot.trade_off(
    curves(LABELS[:n], 3, 2), sweep=np.eye(2), baseline=[1.0, 1.0]
  ),
  "front": lambda n: plot.front(
    curves(LABELS[:n], 5, 2), true_front=np.eye(2), rays=[[1, 0], [1, 2]]
  ),
  "gap_curves": lambda n: plot.gap_curves(curves(LABELS[:n], 3, 9)),
  "diagnostics": lambda n: plot.diagnostics(training_log(LABELS[:n])),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("count", [1, 13])
def test_nothing_overlaps(name, count, tmp_path):
  figure = FIGURES[name](count)
  figure.savefig(tmp_path / "figure.png")
  assert (tmp_path / "figure.png").stat().st_size > 1000
  (legend,) = figure.legends
  box = legend.get_window_extent()
  page = figure.bbox
  # Half a pixel for rounding.
  assert box.x0 >= page.x0 - 0.5 and box.x1 <= page.x1 + 0.5
  assert box.y0 >= page.y0 - 0.5 and box.y1 <= page.y1 + 0.5
  drawn = [ax.get_tightbbox() for ax in figure.axes]
  assert all(not box.overlaps(ax) for ax in drawn)
  for index, ax in enumerate(drawn):
    assert all(not ax.overlaps(other) for other in drawn[:index])
    # The legend must not have squeezed the axes away.
    assert ax.width > 150 and ax.height > 150


def test_forty_methods_are_told_apart():
  styles = {
    (style["color"], style["marker"])
    for style in map(_drawing.marker_style, range(40))
  }
  assert len(styles) == 40
  lines = {str(_drawing.line_style(index)) for index in range(28)}
  assert len(lines) == 28
  figure = FIGURES["trade_off"](40)
  figure.draw_without_rendering()
  assert figure.legends[0].get_window_extent().y0 >= 0
  assert figure.axes[0].bbox.width > 400


def test_colours_differ_for_colour_blind_readers():
  # Machado et al. 2009, protanopia and deuteranopia, on linear RGB.
  matrices = np.array(
    [
      [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
      ],
      [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
      ],
    ]
  )
  rgb = np.array([colors.to_rgb(colour) for colour in _drawing.COLOURS])
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
  seen = np.clip(np.einsum("mij,nj->mni", matrices, linear), 0, 1)
  # CIELAB, in which distances are about as large as they look.
  to_xyz = np.array(
    [
      [0.4124, 0.3576, 0.1805],
      [0.2126, 0.7152, 0.0722],
      [0.0193, 0.1192, 0.9505],
    ]
  )
  xyz = seen @ to_xyz.T / to_xyz.sum(axis=1)
  f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
  x, y, z = np.moveaxis(f, -1, 0)
  lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
  gap = np.linalg.norm(lab[:, :, None] - lab[:, None], axis=-1)
  off = ~np.eye(len(rgb), dtype=bool)
  # The least here is 17.9; of the first seven of matplotlib's own cycle 4.6.
  assert gap[:, off].min() > 15


def test_learning_curves_draws_means_and_bands():
  values = np.array([[[1.0], [2.0]], [[3.0], [6.0]]])
  figure = plot.learning_curves(
    {"mgda": values}, task_names=["left"], steps=[10, 20]
  )
  (ax,) = figure.axes
  (line,) = ax.lines
  np.testing.assert_array_equal(line.get_xdata(), [10, 20])
  np.testing.assert_array_equal(line.get_ydata(), [2.0, 4.0])
  (band,) = ax.collections
  # Standard deviations of two seeds: sqrt 2 and 2 sqrt 2.
  assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(
    4 + 2 * np.sqrt(2)
  )
  assert ax.get_title() == "left"
  single = plot.learning_curves({"mgda": values[0]})
  assert not single.axes[0].collections


def test_smoothing_is_a_trailing_mean_and_survives_nan():
  values = np.array([[[1.0], [3.0], [5.0], [np.nan], [1.0], [2.0], [3.0]]])
  smoothed = _arrays.moving_mean(values, 2)[0, :, 0]
  np.testing.assert_array_equal(
    smoothed, [1.0, 2.0, 4.0, np.nan, np.nan, 1.5, 2.5]
  )
  np.testing.assert_array_equal(_arrays.moving_mean(values, 1), values)


def test_weights_of_one_method_need_no_label():
  figure = plot.weights_over_time(np.ones((4, 3)), task_names="abc")
  (ax,) = figure.axes
  assert [line.get_label() for line in ax.lines] == ["a", "b", "c"]
  assert ax.get_ylim()[0] == 0
  negative = plot.weights_over_time(np.array([[1.0, -1.0], [1.0, -2.0]]))
  assert negative.axes[0].get_ylim()[0] < -2


def test_trade_off_marks_means_sweep_and_baseline():
  sweep = np.array([[0.1, 0.9], [0.5, 0.6], [0.9, 0.1]])
  points = {"mgda": [[0.5, 0.7], [0.7, 0.7]], "dwa": [0.6, 0.6]}
  figure = plot.trade_off(
    points,
    sweep=sweep,
    baseline=[0.8, 0.9],
    metric_names=("accuracy", "error"),
    higher_is_better=(True, False),
  )
  (ax,) = figure.axes
  lines = {line.get_label(): line for line in ax.lines}
  np.testing.assert_allclose(lines["mgda"].get_xydata(), [[0.6, 0.7]])
  np.testing.assert_array_equal(
    lines["fixed weights, swept"].get_xydata(), sweep
  )
  assert ax.get_xlabel() == "accuracy  (better →)"
  assert ax.get_ylabel() == "error  (← better)"
  assert len(ax.containers) == 1  # bars for the method with seeds only
  texts = [text.get_text() for text in figure.legends[0].get_texts()]
  assert texts == ["mgda", "dwa", "fixed weights, swept", "single task"]
  near = plot.trade_off(points, sweep=sweep, focus=True).axes[0]
  assert near.get_xlim()[0] > 0.4 and ax.get_xlim()[0] < 0.1


def test_rays_end_at_the_edge_of_the_axes():
  points = {"pareto_mtl": [[0.2, 0.8], [0.8, 0.2]]}
  rays = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 3.0], [2.0, 1.0]])
  (ax,) = plot.front(points, rays=rays).axes
  right, top = ax.get_xlim()[1], ax.get_ylim()[1]
  drawn = [line for line in ax.lines if line.get_label() == "preferences"]
  ends = np.array([line.get_xydata()[1] for line in drawn])
  np.testing.assert_allclose(
    ends, [[right, 0], [min(right, top)] * 2, [0, top], [right, right / 2]]
  )
  assert ax.get_xlim()[0] <= 0 <= ax.get_ylim()[0] + 0.1


def test_diagnostics_draws_each_figure_of_a_log(tmp_path):
  """From dicts, from a file, and from its rows read back: the same lines."""
  log = training_log("ab")
  for row in log:
    row |= {"cosine/a/b": 0.5, "loss/a": 1.0, "run": "first"}
  del log[3]["weight/a"]
  path = tmp_path / "log.csv"
  with open(path, "w", newline="", encoding="utf-8") as file:
    writer = csv.DictWriter(file, log[0])
    writer.writeheader()
    writer.writerows(log)
  with open(path, newline="", encoding="utf-8") as file:
    read_back = list(csv.DictReader(file))
  titles = None
  for given in (log, path, str(path), read_back):
    figure = plot.diagnostics(given)
    titles = [ax.get_title() for ax in figure.axes]
    weights = dict(zip(titles, figure.axes, strict=True))["weights"]
    first, second = (line.get_xydata() for line in weights.lines)
    np.testing.assert_array_equal(first[:, 0], 10 * np.arange(20))
    np.testing.assert_array_equal(second[:, 1], [r["weight/b"] for r in log])
    assert np.isnan(first[3, 1]) and np.isfinite(np.delete(first, 3, 0)).all()
  assert titles == [
    *("weights", "lengths of the gradients", "effective learning rates"),
    *("share of the steps", "cosines", "conflicting pairs", "alignment"),
  ]
  assert figure.axes[1].get_yscale() == "log"
  texts = [text.get_text() for text in figure.legends[0].get_texts()]
  assert texts == ["a", "b", "a/b"]
  # Nobody was away, so that need not be shown; one kind by itself.
  always = [row | {"present/a": 1.0} for row in log]
  assert len(plot.diagnostics(always).axes) == 6
  (ax,) = plot.diagnostics(log, kinds=["alignment"], smooth=2).axes
  values = [row["alignment"] for row in log]
  np.testing.assert_allclose(ax.lines[0].get_ydata()[1], np.mean(values[:2]))


def test_gap_curves_are_medians_on_a_floor():
  values = [[1.0, 0.1, 0.0], [1.0, 0.2, 0.0], [1.0, 0.9, 0.0]]
  (ax,) = plot.gap_curves({"mgda": values}, floor=1e-6).axes
  np.testing.assert_allclose(ax.lines[0].get_ydata(), [1.0, 0.2, 1e-6])
  np.testing.assert_array_equal(ax.lines[0].get_xdata(), [0, 1, 2])
  assert ax.get_yscale() == "log"


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: plot.learning_curves({}), "curves.*mapping.*without entries"),
    (lambda: plot.learning_curves(np.ones((3, 2))), "curves.*ndarray"),
    (lambda: plot.learning_curves({"a": np.ones(3)}), r"curves\['a'\].*steps"),
    (
      lambda: plot.learning_curves({"a": np.ones((3, 2))}, task_names=["x"]),
      "task_names.*2 tasks; got 1",
    ),
    (
      lambda: plot.learning_curves({"a": np.ones((3, 2))}, steps=[1, 2]),
      "steps.*3 points",
    ),
    (
      lambda: plot.learning_curves({"a": np.ones((3, 2))}, smooth=0),
      "smooth.*0",
    ),
    (
      lambda: plot.weights_over_time(
        {"a": np.ones((3, 2)), "b": np.ones((3, 1))}
      ),
      "weights.*same number of tasks.*'b': 1",
    ),
    (lambda: plot.trade_off({"a": [1, 2, 3]}), "points.*two metrics"),
    (lambda: plot.front({"a": [[1, 2, 3]]}), "points.*two losses"),
    (lambda: plot.front({"a": [1, 2]}, rays=[1, 2]), r"rays.*\[K, 2\]"),
    (lambda: plot.front({"a": [1, 2]}, rays=[[0, -1]]), "rays.*nonnegative"),
    (lambda: plot.gap_curves({"a": [1.0]}, floor=0), "floor.*positive"),
    (lambda: plot.diagnostics([]), "log.*empty"),
    (lambda: plot.diagnostics([{"loss": 1.0}]), "log.*'weight/depth'.*'loss'"),
    (
      lambda: plot.diagnostics([{"norm/a": 1}], kinds=["norms"]),
      "kinds.*norm,.*got norms",
    ),
  ],
)
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_matplotlib_is_imported_only_when_called():
  code = """
import sys
from optax_mtl import plot
assert "matplotlib" not in sys.modules
sys.modules["matplotlib"] = sys.modules["matplotlib.figure"] = None
try:
  plot.gap_curves({"mgda": [1.0, 0.5]})
except ImportError as error:
  assert "pip install optax-mtl[plot]" in str(error), error
else:
  raise AssertionError("no error")
"""
  subprocess.run([sys.executable, "-c", code], check=True)
