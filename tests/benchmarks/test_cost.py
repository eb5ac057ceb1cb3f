"""Nothing costs more than it was recorded to: counts, not times."""

import json

import jax
import pytest

import optax_mtl
from benchmarks.cost import counts


@pytest.fixture(scope="module")
def now():
  with jax.numpy_dtype_promotion("standard"):
    return counts.measure()


@pytest.fixture(scope="module")
def recorded():
  return json.loads(counts.BASELINE.read_text())


def test_nothing_costs_more_than_recorded(now, recorded):
  grown = counts.regressions(now, recorded)
  assert not grown, (
    "Costs grew (now, recorded). If that is the price of something worth it, "
    f"say so and run `python -m benchmarks.cost.counts --write`: {grown}"
  )


def test_every_method_is_recorded(recorded):
  missing = [
    name
    for name in optax_mtl.METHODS
    if f"update / {name} / flops" not in recorded
  ]
  assert not missing, (
    f"Run `python -m benchmarks.cost.counts --write`: {missing}"
  )


def test_a_regression_is_found(recorded):
  name = "step / mgda, implicit / temp_bytes"
  grown = recorded | {name: 2 * recorded[name] + 8192}
  assert list(counts.regressions(grown, recorded)) == [name]
  # One more pass: an addition for each entry of eight gradients.
  name = "update / mgda / flops"
  entries = sum(leaf.size for leaf in jax.tree.leaves(counts.small_mlp()))
  grown = recorded | {name: recorded[name] + 8 * entries}
  assert list(counts.regressions(grown, recorded)) == [name]


def test_a_loss_only_method_costs_one_backward_pass(now):
  plain = now["step / plain / flops"]
  # The weights themselves: a few operations on each of eight numbers.
  assert now["step / loss-only, implicit / flops"] < 1.02 * plain + 2000


def test_the_implicit_source_stores_no_gradients(now):
  params = sum(leaf.size * 4 for leaf in jax.tree.leaves(counts.small_mlp()))
  extra = (
    now["step / mgda, implicit / temp_bytes"] - now["step / plain / temp_bytes"]
  )
  stacked = (
    now["step / mgda, stacked / temp_bytes"] - now["step / plain / temp_bytes"]
  )
  # One gradient at a time, leaf by leaf, is at most one copy of the params;
  # here the largest layer is most of them. Stacked ones are T copies.
  assert extra < 1.5 * params
  assert stacked > 4 * params
