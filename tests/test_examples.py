"""Every example runs, as a user would run it, and says how training went."""

import pathlib
import re
import runpy

import pytest
from alone import printed_by

ROOT = pathlib.Path(__file__).parents[1]

#: Example -> what its output has to show.
EXPECTED = {
  "active_tasks": r"the trunk moved by [1-9]",
  "diagnosis": r"cosines of\s+left and right -",
  "eqx": r"last weights of the trunk",
  "many_machines": r"1 processes, 1 devices",
  "lora": r"trained: 2464 numbers beside 16896",
  "missing_labels": r"with counts= +\de-0[4-8] apart\n.*= +\de-0[0-3] apart",
  "mixed_precision": r"([1-9]\d*) steps left out\nall within 0\.0\d",
  "reinforcement": r"Nash-MTL, norm 1 +\[0\.\d+ +0\.\d+ +0\.\d+ *\]",
  "training_loop": r"bit-identical: True",
  "linen": r"BatchNorm's running means",
  "nnx": r"implicit source",
  "pareto_front": r"Pareto MTL: hypervolume 0\.29",
  "pinn": r"equal weights / inverse norms: [1-9]\d",
  "pinn_eqx": r"equal weights / inverse norms: [1-9]\d",
  "pinn_flax": r"equal weights / inverse norms: [1-9]\d",
  "sharded": r"collectives of the method: \{'all-reduce': 1\}",
  "sweep": r"0\.95 0\.05 .* digit",
  "training_log": r"ink took part in 50% of the steps\nwrote out",
}
#: Those that print losses during one training.
LEARNS = {"eqx", "linen", "lora", "many_machines", "sharded"}
#: Those that set XLA's flags.
OWN_PROCESS = {"sharded"}
#: Not an example, but what they train on.
HELPERS = {"digits"}


def test_all_are_listed():
  """An example that is not run here would rot."""
  files = {path.stem for path in (ROOT / "examples").glob("*.py")}
  assert files == EXPECTED.keys() | HELPERS
  flags = {
    name
    for name in files
    if "XLA_FLAGS" in (ROOT / f"examples/{name}.py").read_text("utf-8")
  }
  assert flags == OWN_PROCESS


def losses(output):
  """The losses in the lines that `digits.report` printed, step by step."""
  number = r" +(-?[\d.]+)"
  rows = re.findall(
    rf"step +\d+ +digit{number} +even{number} +ink{number}", output
  )
  return [[float(value) for value in row] for row in rows]


def in_own_process(name):
  """What the example prints, run in a process of its own."""
  # As the mark does in this process.
  return printed_by(
    f"examples/{name}.py",
    JAX_NUMPY_DTYPE_PROMOTION="standard",
    JAX_NUMPY_RANK_PROMOTION="allow",
  )


@pytest.mark.as_users
@pytest.mark.parametrize("name", EXPECTED)
def test_example(name, capsys, monkeypatch):
  """As a script, with every warning an error.

  In this process, since a new one imports and compiles everything again; but
  XLA's flags are read once.
  """
  if name in OWN_PROCESS:
    output = in_own_process(name)
  else:
    monkeypatch.syspath_prepend(ROOT / "examples")
    runpy.run_path(str(ROOT / f"examples/{name}.py"), run_name="__main__")
    output = capsys.readouterr().out
  assert re.search(EXPECTED[name], output), output
  if name in LEARNS:
    first, *_, last = losses(output)
    # From ln 10, ln 2 and the variance 1, to well below.
    assert all(b < 0.8 * a for a, b in zip(first, last, strict=True))
