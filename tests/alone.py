"""Python in a process of its own, for tests that need another start."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]

# JAX writes an entry of its compilation cache in place, so that another process
# can read half of it; it then compiles, and says so. `pyproject.toml` lets the
# same warning pass in the tests' own processes.
_HALF_WRITTEN = "ignore:Error reading persistent compilation cache entry"


def printed_by(*arguments, devices=None, paths=(ROOT,), **env):
  """What Python prints for these arguments, with every warning an error.

  Args:
    *arguments: What follows `python -W error`.
    devices: How many CPU devices it has, if not as many as this process.
    paths: Where it looks for modules; it runs in the first.
    **env: More environment variables.
  """
  env = (
    os.environ
    | {
      "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    | env
  )
  if devices is not None:
    env["XLA_FLAGS"] = (
      os.environ.get("XLA_FLAGS", "")
      + f" --xla_force_host_platform_device_count={devices}"
    )
  done = subprocess.run(
    [sys.executable, "-W", "error", "-W", _HALF_WRITTEN, *arguments],
    cwd=paths[0],
    env=env,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-1000:]
  return done.stdout
