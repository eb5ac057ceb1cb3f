"""Strict settings for every test, and what each method costs the suite."""

import collections
import pathlib
import time

import jax
import pytest

import optax_mtl
from optax_mtl import _registry

#: The package's methods, before a test adds one of its own.
METHODS = frozenset(optax_mtl.METHODS)
#: What one more method may cost, CPU seconds.
BUDGET = 6.0


def pytest_configure(config):
  config.addinivalue_line(
    "markers",
    "standard_promotion: the test runs code of others (optax, flax) that mixes "
    "dtypes, so strict dtype promotion is off; without the mark it is on.",
  )
  config.addinivalue_line(
    "markers",
    "as_users: the test runs what users see, with JAX's settings as they are "
    "in a new process: float32, and nothing strict.",
  )


def method_of(nodeid):
  """The method that a test is about: a parameter, or its file's name."""
  path, _, test = nodeid.partition("::")
  for value in test.partition("[")[2].rstrip("]").split("-"):
    if value in METHODS:
      return value
  path = pathlib.PurePath(path)
  stem = path.stem.removeprefix("test_")
  return stem if path.parent.name == "methods" and stem in METHODS else None


def group_of(nodeid):
  """The tests that share what is compiled: of a method, or else of a file.

  Those of a method stay in one process, whichever file they are in.
  """
  return method_of(nodeid) or nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """With `-n N`, each group of tests stays in one process.

  The marks of `--dist loadgroup` do that too, but not with every version of
  pytest: with 9.2 they are lost in silence.
  """
  from xdist.scheduler import LoadScopeScheduling

  class ByGroup(LoadScopeScheduling):
    def _split_scope(self, nodeid):
      return group_of(nodeid)

  return ByGroup(config, log)


_workers = collections.defaultdict(set)


def pytest_sessionfinish(session):
  """A group in two processes compiles everything twice: that is an error."""
  split = sorted(group for group, seen in _workers.items() if len(seen) > 1)
  if split:
    session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
    raise pytest.UsageError(f"Tests that belong together were split: {split}.")


@pytest.fixture(autouse=True)
def strict_promotion(request):
  """No silent broadcasting across ranks, no silent change of dtypes."""
  if request.node.get_closest_marker("as_users"):
    with (
      jax.numpy_rank_promotion("allow"),
      jax.numpy_dtype_promotion("standard"),
      jax.enable_x64(False),
    ):
      yield
    return
  loose = request.node.get_closest_marker("standard_promotion")
  with (
    jax.numpy_rank_promotion("raise"),
    jax.numpy_dtype_promotion("standard" if loose else "strict"),
  ):
    yield


@pytest.fixture(autouse=True)
def registry_as_it_was():
  """A method that a test registers is gone afterwards."""
  known = dict(_registry.METHODS)
  yield
  _registry.METHODS.clear()
  _registry.METHODS.update(known)


# What each method costs: processor time, which a crowded machine does not
# change, from before a test's setup to after its teardown. With xdist the
# figures travel in the reports of the teardowns.
_COMPILING = "/jax/core/compile/backend_compile_duration"
_STARTED = pytest.StashKey()
_compiled = 0.0
_costs = collections.defaultdict(list)


def _count_compiling(event, seconds, **kwargs):
  global _compiled
  if event == _COMPILING:
    _compiled += seconds


jax.monitoring.register_event_duration_secs_listener(_count_compiling)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
  item.stash[_STARTED] = time.process_time(), _compiled
  return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item):
  result = yield
  started, compiled = item.stash[_STARTED]
  figures = time.process_time() - started, _compiled - compiled
  item.user_properties.append(("cost", (method_of(item.nodeid), *figures)))
  return result


def pytest_runtest_logreport(report):
  _workers[group_of(report.nodeid)].add(getattr(report, "node", None))
  for name, value in (
    report.user_properties if report.when == "teardown" else ()
  ):
    if name == "cost":
      method, *figures = value
      _costs[method].append(figures)


def pytest_terminal_summary(terminalreporter):
  """The table, dearest method first."""
  if not _costs:
    return
  rows = {
    method: [len(figures), *map(sum, zip(*figures, strict=True))]
    for method, figures in _costs.items()
  }
  other = rows.pop(None, None)
  terminalreporter.section("what each method costs")
  line = "{:<24} {:>6} {:>8} {:>16}".format
  terminalreporter.line(line("", "tests", "CPU s", "compiling, s"))
  for method, (count, cpu, compiling) in sorted(
    rows.items(), key=lambda row: -row[1][1]
  ):
    above = f"  more than {BUDGET:g}" if cpu > BUDGET else ""
    terminalreporter.line(
      line(method, count, f"{cpu:.1f}", f"{compiling:.1f}") + above
    )
  if other is not None:
    count, cpu, compiling = other
    terminalreporter.line(
      line("(no single method)", count, f"{cpu:.1f}", f"{compiling:.1f}")
    )
