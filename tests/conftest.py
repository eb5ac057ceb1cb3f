"""Strict settings for every test."""

import jax
import pytest


def pytest_configure(config):
  config.addinivalue_line(
    "markers",
    "standard_promotion: the test runs code of others (optax, flax) that mixes "
    "dtypes, so strict dtype promotion is off; without the mark it is on.",
  )


@pytest.fixture(autouse=True)
def strict_promotion(request):
  """No silent broadcasting across ranks, no silent change of dtypes."""
  loose = request.node.get_closest_marker("standard_promotion")
  with (
    jax.numpy_rank_promotion("raise"),
    jax.numpy_dtype_promotion("standard" if loose else "strict"),
  ):
    yield
