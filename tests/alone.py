"""Python in a process of its own, for tests that need another start."""

import os
import pathlib
import signal
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
  done = subprocess.run(
    **_command(arguments, devices, paths, env), capture_output=True, timeout=600
  )
  assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-1000:]
  return done.stdout


def killed_at(line, *arguments, paths=(ROOT,), errors=None, **env):
  """Kills the same with signal 9 as soon as it has printed a line.

  Args:
    line: The line.
    *arguments: As in `printed_by`.
    paths: As in `printed_by`.
    errors: A file for what it writes to its standard error.
    **env: More environment variables.
  """
  with (
    open(errors, "w") as stderr,
    subprocess.Popen(
      **_command(arguments, None, paths, env),
      stdout=subprocess.PIPE,
      stderr=stderr,
    ) as process,
  ):
    printed = []
    for each in process.stdout:
      printed.append(each.strip())
      if printed[-1] == line:
        process.kill()
        break
  seen = errors.read_text()[-4000:]
  assert printed[-1:] == [line], (printed[-3:], seen)
  assert process.returncode == -signal.SIGKILL, (process.returncode, seen)


def with_devices(number):
  """What a process's environment says for it to have so many CPU devices.

  Each device waits for the others in a thread of one pool, in one for each of
  several sums that do not depend on each other. With as many threads as devices
  those of one sum can take what another needs, and all wait for ever.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  return {
    "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={number}",
    "NPROC": str(8 * number),
  }


def _command(arguments, devices, paths, env):
  """What `subprocess` is told."""
  env = (
    os.environ
    | {
      "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    | env
  )
  if devices is not None:
    env |= with_devices(devices)
  return {
    "args": [
      sys.executable,
      *("-W", "error", "-W", _HALF_WRITTEN),
      *map(str, arguments),
    ],
    "cwd": paths[0],
    "env": env,
    "text": True,
  }
