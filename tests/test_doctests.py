"""The examples in the docstrings run."""

import doctest
import importlib
import pkgutil

import jax
import pytest

import optax_mtl

MODULES = [
  module.name
  for module in pkgutil.walk_packages(optax_mtl.__path__, "optax_mtl.")
]


# Users run the examples with standard promotion, and some call optax.
@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
  module = importlib.import_module(name)
  # The output is float32's.
  with jax.enable_x64(False):
    result = doctest.testmod(module)
  assert not result.failed, f"{result.failed} examples of {name} fail."
