"""Strict settings for every test."""

import jax
import pytest

import optax_mtl


def pytest_configure(config):
  config.addinivalue_line(
    "markers",
    "standard_promotion: the test runs code of others (optax, flax) that mixes "
    "dtypes, so strict dtype promotion is off; without the mark it is on.",
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
    name = getattr(item, "callspec", None) and item.callspec.params.get("name")
    if name not in optax_mtl.METHODS:
      name = item.path.name
    item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(autouse=True)
def strict_promotion(request):
  """No silent broadcasting across ranks, no silent change of dtypes."""
  loose = request.node.get_closest_marker("standard_promotion")
  with (
    jax.numpy_rank_promotion("raise"),
    jax.numpy_dtype_promotion("standard" if loose else "strict"),
  ):
    yield
