"""The functions around a training step beside equal weights, on a few steps."""

import pytest

from benchmarks.quality import with_loss_fn

pytest.importorskip("sklearn")
# The plain step calls optax, which mixes dtypes.
pytestmark = pytest.mark.standard_promotion


def test_table(monkeypatch, capsys):
  """Of two rows: each is two programs."""
  every = with_loss_fn.contenders

  def two(problem, args):
    found = every(problem, args)
    return {label: found[label] for label in (with_loss_fn.EQUAL, "moml")}

  monkeypatch.setattr(with_loss_fn, "contenders", two)
  argv = ["--steps", "2", "--seeds", "2", "--batch-size", "8", "--markdown"]
  assert with_loss_fn.main([*argv, "--held-out", "50"]) == 0
  lines = capsys.readouterr().out.splitlines()
  rows = [line.split(" | ") for line in lines if line.startswith("| ")]
  assert [row[0] for row in rows] == [
    *("| method", "| ---", "| equal_weighting", "| moml")
  ]
  equal, moml = rows[2:]
  assert equal[3:] == ["+0.00", "1 each", "1.0 |"]
  assert moml[4] == "0.50 0.50"
  # Two batches, and a backward pass of each task on each: five passes for two.
  assert 2 < float(moml[5].removesuffix(" |")) < 4


def test_a_missing_file_says_where_it_comes_from(capsys):
  assert with_loss_fn.main(["--dataset", "census"]) == 2
  assert "--data-dir" in capsys.readouterr().out
