"""A short run in bad weather; `make nightly` runs 100,000 steps a method."""

import jax
import numpy as np
import pytest

from benchmarks.faults import soak

# optax mixes dtypes.
pytestmark = pytest.mark.standard_promotion


@pytest.fixture(autouse=True)
def chunks(monkeypatch):
  """Shorter calls: a tenth of the steps, before and after."""
  monkeypatch.setattr(soak, "CHUNK", 200)
  monkeypatch.setattr(soak, "CALM", 1000)
  # Other tests' garbage is no business of this one's pages.
  monkeypatch.setattr(soak, "GROWTH_BYTES", 1 << 26)


@pytest.mark.parametrize("name", ["dwa", "gradnorm", "nash_mtl"])
def test_a_run_survives(name):
  result = soak.soak(name, 4000)
  assert result.faults() == []
  # There was something to survive: Gram matrices that overflow. `dwa` reads
  # losses alone, and drops those that are not finite.
  assert name == "dwa" or int(result.account.skipped) > 20


def test_the_weather_is_bad_enough():
  weather = soak.weather(0, 0, 4000, calm=False)
  for factor in soak.FACTORS:
    wanted = (
      np.isnan(weather.factor)
      if np.isnan(factor)
      else (weather.factor == np.float32(factor))
    )
    assert wanted.any()
  assert (~weather.active).all(1).any() and weather.active.all(1).any()


def test_what_goes_wrong_is_counted():
  weights = jax.numpy.array([0.5, -0.1, 0.6])
  simplex = frozenset({"simplex", "positive_weights"})
  everyone = jax.numpy.ones(3, bool)
  assert soak._off_claims(simplex, weights, everyone)
  assert not soak._off_claims(frozenset(), weights, everyone)
  account = soak.Account(*np.int32([1, 0, 2, 5]))
  faults = soak.Result(account, 1.0, 2.0, 1 << 30, 3, 0.0).faults()
  assert len(faults) == 5
