"""The table over several comparisons."""

import json

import pytest

from benchmarks.quality import across


def written(folder, rows):
  """A comparison's JSON; of each label the difference and half its interval."""
  folder.mkdir()
  path = folder / "compare.json"
  common = {"rank": 1.0, "rank_spread": 0.0, "wins": 0.5}
  standings = {
    label: common
    | {"difference": mean, "low": mean - half, "high": mean + half}
    for label, (mean, half) in rows.items()
  }
  data = [{"label": "single_task", "standing": None}]
  data += [{"label": k, "standing": v} for k, v in standings.items()]
  path.write_text(json.dumps({"rows": data}))
  return path


def test_counts_verdicts_and_puts_the_best_first(tmp_path, capsys):
  equal = {"equal_weighting": (0.0, 0.0)}
  one = {"a": (1.0, 0.5), "b": (-1.0, 2.0), "c": (-3.0, 1.0), "d": (-9.0, 1.0)}
  two = {"a": (2.0, 0.5), "b": (-1.0, 0.5), "c": (-123.4, 1.0)}
  paths = [
    written(tmp_path / "one", equal | one),
    # As dense.compare writes it.
    written(tmp_path / "two", equal | two),
  ]
  rows = json.loads(paths[1].read_text())["rows"]
  rows = {row.pop("label"): row for row in rows}
  paths[1].write_text(json.dumps({"rows": rows}))
  assert across.main([*map(str, paths), "--markdown"]) == 0
  lines = capsys.readouterr().out.strip().splitlines()
  assert lines[0] == "| method | one | two | better / even / worse |"
  assert lines[2:] == [
    "| c | -3 better | -123 better | 2 / 0 / 0 |",
    "| b | -1 even | -1 better | 1 / 1 / 0 |",
    "| a | +1 worse | +2 worse | 0 / 0 / 2 |",
  ]


def test_says_what_it_wants(tmp_path, capsys):
  wrong = tmp_path / "wrong.json"
  wrong.write_text(json.dumps({"rows": [{"label": "a"}]}))
  assert across.main([str(wrong)]) == 2
  assert "give what quality.compare" in capsys.readouterr().out
  assert across.main([str(tmp_path / "missing.json")]) == 2
  paths = [
    str(written(tmp_path / folder, {"a": (1.0, 1.0)})) for folder in ("a", "b")
  ]
  assert across.main([paths[0], paths[0]]) == 2
  assert "names of their own" in capsys.readouterr().out
  with pytest.raises(SystemExit):
    across.main([])
