"""Strict settings for every test, and what each method costs the suite."""

import collections
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


def method_of(item):
  """The method that a test is about: a parameter, or its file's name."""
  callspec = getattr(item, "callspec", None)
  for value in callspec.params.values() if callspec else ():
    if isinstance(value, str) and value in METHODS:
      return value
  stem = item.path.stem.removeprefix("test_")
  return (
    stem if item.path.parent.name == "methods" and stem in METHODS else None
  )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
  """With `-n N --dist loadgroup`, what is compiled once is shared.

  The tests of one method stay in one process, whichever file they are in, and
  so do the other tests of one file.
  """
  if not config.pluginmanager.hasplugin("xdist"):
    return
  for item in items:
    item.add_marker(pytest.mark.xdist_group(method_of(item) or item.path.name))


@pytest.fixture(autouse=True)
def strict_promotion(request):
  """No silent broadcasting across ranks, no silent change of dtypes."""
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
  item.user_properties.append(("cost", (method_of(item), *figures)))
  return result


def pytest_runtest_logreport(report):
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
