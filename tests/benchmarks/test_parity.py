"""What the comparisons with peers say, without the peers."""

import json
import math
import pathlib
import types

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("scipy")

from benchmarks.accuracy import (  # noqa: E402
  agree_with_jinns,
  agree_with_torchjd,
  parity,
  torchjd_faults,
  torchjd_pairs,
)
from benchmarks.accuracy.parity import Cell, Known, Report  # noqa: E402
from benchmarks.common import contenders  # noqa: E402

DOCS = pathlib.Path(__file__).parents[2] / "docs"

#: What `torchjd.aggregation` 0.18 exports besides base classes; of a method
#: that is both an aggregator and a weighting, the aggregator.
TORCHJD = {
  *("AlignedMTL", "CAGrad", "ConFIG", "Constant", "CRMOGMWeighting"),
  *("DualProj", "ExcessMTL", "FairGrad", "GradDrop", "GradVac", "IMTLG"),
  *("Krum", "Mean", "MGDA", "MoDoWeighting", "NashMTL", "PCD", "PCGrad"),
  *("Random", "SDMGradWeighting", "Sum", "TrimmedMean", "UPGrad"),
}


# -- cells and what is known of them -------------------------------------------


def test_a_cell_is_its_worst_step():
  right = np.array([[3.0, 4.0], [0.0, 0.0]])
  ours = np.array([[3.0, 4.5], [0.0, 0.0]])
  cell = parity.cell("m", "w", ours=ours, theirs=2 * right, right=right)
  assert (cell.ours, cell.theirs, cell.tasks) == (0.1, 1.0, 2)
  # |ours - theirs| is that of (3, 3.5), beside the longer, 10.
  assert cell.difference == pytest.approx(math.hypot(3, 3.5) / 10)
  assert math.isnan(cell.as_known)
  lost = parity.cell(
    "m", "w", ours=ours * np.nan, theirs=right + 1, right=right, as_known=right
  )
  # Where the right answer is zero, anything else is off by infinity.
  assert lost.ours == lost.theirs == lost.difference == math.inf
  assert lost.as_known == 1.0
  with pytest.raises(ValueError, match=r"m: \(1, 2\)"):
    parity.cell("m", "w", ours=ours[:1], theirs=right, right=right)


FINE, OFF = 1e-7, 1e-2


@pytest.mark.parametrize(
  ("known", "unexplained"),
  [
    (Known(("m",), "theirs", "why"), []),
    (Known(("m",), "both", "why"), []),
    (Known(("m",), "ours", "why"), ["theirs"]),
    (Known(("other",), "theirs", "why"), ["theirs"]),
    (Known(("m",), "theirs", "why", where=("iid",)), []),
    (Known(("m",), "theirs", "why", where=("aligned",)), ["theirs"]),
    (Known(("m",), "theirs", "why", at_most=1e-1), []),
    (Known(("m",), "theirs", "why", at_most=1e-3), ["theirs"]),
    (Known(("m",), "theirs", "why", proved=1e-4), []),
    (Known(("m",), "theirs", "why", proved=1e-6), ["theirs"]),
  ],
)
def test_what_is_known_explains_no_more_than_it_says(known, unexplained):
  cell = Cell("m", "iid", 3, FINE, OFF, OFF, as_known=1e-5)
  report = Report(("Peer", "1.0"), [cell], [known])
  assert [side for _, side in report.unexplained()] == unexplained
  assert report.status() == bool(unexplained)
  assert bool(report.sentences()) != bool(unexplained)


def test_without_a_form_nothing_is_proved():
  cell = Cell("m", "iid", 3, FINE, OFF, OFF)
  known = Known(("m",), "theirs", "why", proved=1.0)
  assert Report(("Peer", "1.0"), [cell], [known]).status() == 1


def test_both_sides_need_a_reason():
  cell = Cell("m", "iid", 3, OFF, math.inf, 1.0)
  known = [Known(("m",), "theirs", "why")]
  assert Report(("Peer", "1.0"), [cell], known).unexplained() == [
    (cell, "ours")
  ]
  known.append(Known(("m",), "ours", "why not"))
  assert Report(("Peer", "1.0"), [cell], known).status() == 0
  with pytest.raises(ValueError, match="two small errors"):
    Cell("m", "iid", 3, FINE, FINE, OFF).off()


def test_the_table_has_the_worst_and_what_is_elsewhere(capsys):
  cells = [
    Cell("m", "iid", 3, 1e-7, 2e-7, 3e-7),
    Cell("m", "short", 3, 4e-7, OFF, OFF),
    Cell("n", "iid", 3, 0.0, 0.0, 0.0),
  ]
  known = [Known(("m",), "theirs", "it adds 1e-8.", where=("short",))]
  report = Report(("Peer", "1.0"), cells, known)
  _, body = report.summary()
  assert body == [
    ["m", "4e-07", "1e-02", "1e-02", "3e-07"],
    ["n", "0e+00", "0e+00", "0e+00", "0e+00"],
  ]
  assert report.show(markdown=True, details=True) == 0
  out = capsys.readouterr().out
  assert "not seen" not in out
  assert "| m | 3 | 1e-07 / 2e-07 | 4e-07 / 1e-02 |" in out
  assert "\n- m (Peer): it adds 1e-8.\n" in out
  mended = [Cell("m", "short", 3, 4e-7, 4e-7, 4e-7)]
  assert Report(("Peer", "2.0"), mended, known).show() == 0
  assert (
    "Known, and not seen here: m (Peer): it adds 1e-8."
    in capsys.readouterr().out
  )
  assert Report(("Peer", "1.0"), cells, []).show() == 1
  out = capsys.readouterr().out
  assert "NOT EXPLAINED: m, short, 3 tasks: Peer is off by 1.0e-02." in out


# -- TorchJD -------------------------------------------------------------------


def test_every_method_of_torchjd_is_compared():
  assert {name.partition("(")[0] for name in torchjd_pairs.PAIRS} == TORCHJD
  rows = {row for known in torchjd_faults.KNOWN for row in known.rows}
  assert rows <= set(torchjd_pairs.PAIRS)
  kinds = set(agree_with_torchjd.runs(2, 1))
  assert {w for known in torchjd_faults.KNOWN for w in known.where} <= kinds
  proved = {
    r for k in torchjd_faults.KNOWN if k.proved is not None for r in k.rows
  }
  assert proved == set(torchjd_faults.FORMS)


def test_draws_are_handed_over_and_taken_back():
  real = object()
  torch = types.SimpleNamespace(rand=real, from_numpy=lambda x: x)
  numbers = [np.arange(3.0), np.arange(2.0)]
  with torchjd_pairs.handed(torch, {"rand": numbers}):
    assert torch.rand((3,), dtype=None).tolist() == [0, 1, 2]
    assert torch.rand(2).tolist() == [0, 1]
  assert torch.rand is real
  with torchjd_pairs.handed(torch, {"rand": numbers[:1]}):
    with pytest.raises(RuntimeError, match="unexpectedly"):
      torch.rand((4,))
    torch.rand(3)
  with pytest.raises(RuntimeError, match="not drawn all"):
    with torchjd_pairs.handed(torch, {"rand": numbers}):
      pass
  assert torch.rand is real


def test_draws_for_gradvac_are_its_orders():
  run = agree_with_torchjd.runs(3, 2)["iid"]
  whole, others = (
    torchjd_pairs._orders(run),
    torchjd_pairs._orders_of_others(run),
  )
  for at, (order, places) in enumerate(zip(whole, others, strict=True)):
    task = at % 3
    left = [j for j in range(3) if j != task]
    assert [left[p] for p in places] == [j for j in order if j != task]


@pytest.mark.parametrize(
  "name", ["CRMOGMWeighting", "ExcessMTL", "MoDoWeighting"]
)
def test_our_side_is_the_reference(name):
  """Those that no other test holds against this reference over steps."""
  pair, run = torchjd_pairs.PAIRS[name], agree_with_torchjd.runs(3, 3)["iid"]
  right = pair.right(run)
  cell = parity.cell(
    name, "iid", ours=pair.run_ours(run, {}), theirs=right, right=right
  )
  assert cell.ours < parity.ROUNDING


def test_forms_differ_from_the_reference_by_their_fault():
  runs = agree_with_torchjd.runs(3, 2)

  def apart(name, label):
    form, right = torchjd_faults.FORMS[name], torchjd_pairs.PAIRS[name].right
    run = runs[label]
    return np.linalg.norm(form(run) - right(run)) / np.linalg.norm(right(run))

  short, long = "iid x 1e-04", "iid x 1e+04"
  assert apart("CAGrad", short) == 1 and apart("CAGrad", long) == 0
  assert apart("ExcessMTL", short) > 1e-2 and apart("ExcessMTL", long) < 1e-12
  # 1e-4 beside a normalized Gram matrix.
  assert apart("UPGrad", short) > 1e-2 > apart("UPGrad", long) > 1e-7
  assert apart("DualProj", "scaled_1e2") > 1e-3
  # Of one neighbour each, distances and squares have the same order.
  assert apart("Krum", "iid") < 1e-12


def test_command_without_torchjd(monkeypatch, capsys):
  monkeypatch.setattr(contenders, "peer_version", lambda threads: None)
  with pytest.raises(SystemExit) as stopped:
    agree_with_torchjd.main([])
  assert stopped.value.code == 1
  assert "TorchJD is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("share", [1.0, 0.9])
def test_command(monkeypatch, capsys, tmp_path, share):
  monkeypatch.setattr(contenders, "peer_version", lambda threads: "0.0")
  monkeypatch.setattr(
    torchjd_pairs.Pair, "run_theirs", lambda self, run: share * self.right(run)
  )
  path = tmp_path / "cells.json"
  argv = ["--methods", "Sum", "--tasks", "2", "--steps", "2", f"--json={path}"]
  assert agree_with_torchjd.main(argv) == (share != 1)
  assert ("NOT EXPLAINED: Sum" in capsys.readouterr().out) == (share != 1)
  cells = json.loads(path.read_text())["cells"]
  assert len(cells) == 7 and {c["tasks"] for c in cells} == {2}
  assert max(c["ours"] for c in cells) < parity.ROUNDING


# -- jinns ---------------------------------------------------------------------


def test_command_without_jinns(monkeypatch, capsys):
  monkeypatch.setattr(agree_with_jinns, "peer_version", lambda: None)
  with pytest.raises(SystemExit) as stopped:
    agree_with_jinns.main([])
  assert stopped.value.code == 1
  assert "jinns is not installed" in capsys.readouterr().err


def test_sides_of_jinns(monkeypatch, capsys):
  """Ours is the reference; a peer of equal weights is not explained."""
  monkeypatch.setattr(agree_with_jinns, "peer_version", lambda: "0.0")
  ones = lambda *args, **kwargs: np.ones((agree_with_jinns.STEPS, 4))  # noqa: E731
  monkeypatch.setattr(agree_with_jinns, "_of_losses", ones)
  monkeypatch.setattr(agree_with_jinns, "_of_gradients", ones)
  names = ["soft_adapt", "ReLoBRaLo", "prior_loss", "lr_annealing"]
  cells = agree_with_jinns.measure(names)
  assert max(c.ours for c in cells) < parity.ROUNDING
  report = Report(("jinns", "0.0"), cells, agree_with_jinns.KNOWN)
  # All 1 is nobody's rule, but nearly the softmax of small ratios.
  assert {c.row for c, _ in report.unexplained()} == set(names)


def test_known_of_jinns_are_of_its_rows():
  for known in agree_with_jinns.KNOWN:
    for row in known.rows:
      assert set(known.where) <= set(agree_with_jinns.ROWS[row][1])
    assert known.proved is not None


# -- the pages -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("page", "rows", "known"),
  [
    ("torchjd.md", torchjd_pairs.PAIRS, torchjd_faults.KNOWN),
    ("from_jinns.md", agree_with_jinns.ROWS, agree_with_jinns.KNOWN),
  ],
)
def test_pages_have_the_table_and_the_sentences(page, rows, known):
  text = " ".join((DOCS / page).read_text().split())
  for row in rows:
    assert f"| {row} | " in text
  for each in known:
    assert f"{', '.join(each.rows)} (" in text
    assert each.why in text
