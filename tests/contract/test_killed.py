"""A run that is killed and goes on is the run that was not, bit for bit.

The process dies of signal 9 in the middle of a step, of a save, or of both: it
is not asked. Methods of each kind stand in `accumulate`, a chain and
`refresh_every`, with tasks that come and go. One program for all of them, in
two processes.
"""

import os
import random

import alone
import numpy as np

PATHS = (alone.ROOT, alone.ROOT / "tests")
#: The second process finds what the first has compiled.
CACHE = {
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def test_killed_and_resumed(tmp_path, monkeypatch):
  at = random.SystemRandom().randrange(3, 36)
  command = ("-m", "contract.killable", tmp_path)
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = CACHE | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
  else:
    cache = {}
  alone.killed_at(
    f"step {at}", *command, paths=PATHS, errors=tmp_path / "errors", **cache
  )
  printed = alone.printed_by(*command, "resumed", paths=PATHS, **cache)
  went_on = int(printed.split()[2])
  # The save of the last step or two may not have come to an end.
  assert at - 2 < went_on <= 40, (at, went_on)
  with np.load(tmp_path / "whole.npz") as whole:
    with np.load(tmp_path / "resumed.npz") as resumed:
      assert sorted(whole) == sorted(resumed)
      for key in whole:
        np.testing.assert_array_equal(
          whole[key], resumed[key], err_msg=f"killed at {at}: {key}"
        )
        assert whole[key].dtype == resumed[key].dtype
