"""The examples in the docstrings run."""

import doctest
import importlib
import pathlib

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]


def _modules(package):
  """Dotted names of the package's modules that hold an example."""
  paths = [
    path.relative_to(ROOT).with_suffix("")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
  ]
  return [".".join(path.parts).removesuffix(".__init__") for path in paths]


def _check(name):
  module = importlib.import_module(name)
  # The output is float32's.
  with jax.enable_x64(False):
    result = doctest.testmod(module)
  assert result.attempted
  assert not result.failed, f"{result.failed} examples of {name} fail."


# Users run the examples with standard promotion, and some call optax.
@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", _modules("optax_mtl"))
def test_doctests(name):
  _check(name)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", _modules("benchmarks"))
def test_doctests_of_benchmarks(name):
  for package in ("flax", "rich", "sklearn"):
    pytest.importorskip(package)
  _check(name)
