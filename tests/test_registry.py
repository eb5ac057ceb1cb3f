"""One file and one row per method."""

import importlib
import inspect
import pkgutil
import re

import harness
import pytest

import optax_mtl
import optax_mtl.methods
import optax_mtl.pareto
from optax_mtl import _base

every_method = pytest.mark.parametrize("name", harness.NAMES)

#: Files of `pareto` that hold something else than a method.
NOT_METHODS = {"metrics", "preferences"}
FAMILIES = {"fixed", "loss", "gram", "pareto"}
COMMON = {"shared": None, "heads": "sum", "on_nonfinite": "propagate"}


def method_files():
  """Module name of each file that ought to hold a method."""
  for package in (optax_mtl.methods, optax_mtl.pareto):
    for module in pkgutil.iter_modules(package.__path__):
      if module.name.startswith("_") or module.name in NOT_METHODS:
        continue
      yield f"{package.__name__}.{module.name}"


@pytest.mark.parametrize("module", list(method_files()))
def test_one_file_one_row(module):
  importlib.import_module(module)
  rows = [n for n, f in _base.METHODS.items() if f.__module__ == module]
  assert len(rows) == 1, (
    f"{module} registers {len(rows)} methods ({rows}), and must register one: "
    "put @_base.method(...) on the function that builds it. A file that holds "
    "helpers starts with an underscore; one that holds something else beside "
    "the methods is listed in NOT_METHODS of tests/test_registry.py."
  )
  assert rows[0] in optax_mtl.METHODS, (
    f"{module} is never imported: add `from {module} import {rows[0]}` to "
    "optax_mtl/__init__.py."
  )


def test_no_method_lives_elsewhere():
  modules = {function.__module__ for function in optax_mtl.METHODS.values()}
  assert modules <= set(method_files())


@every_method
def test_exported(name):
  function = optax_mtl.METHODS[name]
  assert function.__name__ == name
  assert getattr(optax_mtl, name, None) is function, (
    f"{name} is not exported: import it in optax_mtl/__init__.py."
  )
  assert name in optax_mtl.__all__, f"{name} is missing in optax_mtl.__all__."


def test_all_is_sorted_and_there():
  for module in (optax_mtl, optax_mtl.pareto):
    names = module.__all__
    assert all(hasattr(module, name) for name in names)
    assert len(set(names)) == len(names)
  assert list(optax_mtl.METHODS) == sorted(optax_mtl.METHODS)
  with pytest.raises(TypeError):
    optax_mtl.METHODS["mine"] = None


@every_method
def test_metadata(name):
  info = optax_mtl.METHODS[name].info
  assert isinstance(info, optax_mtl.MethodInfo)
  assert info.name == name
  assert info.paper and info.weights_sum
  assert re.match(r"https://", info.url)
  assert info.family in FAMILIES, f"family of {name}"
  assert info.claims <= set(_base.CLAIMS)
  assert set(info.needs) <= set(_base._REASONS), (
    f"{name} needs an extra arg for which _base has no reason to tell the user."
  )
  known = set(harness.data(num_steps=1).extra)
  assert set(info.needs) <= known, (
    f"{name} needs {set(info.needs) - known}: add it to extra_args in "
    "tests/harness.py."
  )
  # What a claim implies, so that no test is missed.
  if "simplex" in info.claims:
    assert "positive_weights" in info.claims


@every_method
def test_signature(name):
  """`num_tasks` first, and the three options of every method by keyword."""
  parameters = inspect.signature(optax_mtl.METHODS[name]).parameters
  assert next(iter(parameters)) == "num_tasks"
  assert parameters["num_tasks"].default is inspect.Parameter.empty
  for option, default in COMMON.items():
    assert parameters[option].default == default
    assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY


@every_method
def test_docstring(name):
  """Sections, and every argument in them."""
  function = optax_mtl.METHODS[name]
  doc = inspect.getdoc(function)
  sections = ["Args", "Returns", "Raises", "Example"]
  for section in sections + ["References"] * (name != "equal_weighting"):
    assert re.search(rf"^{section}:$", doc, re.MULTILINE), (
      f"The docstring of {name} has no section {section}."
    )
  args = doc.split("\nArgs:\n")[1].split("\nReturns:\n")[0]
  for parameter in inspect.signature(function).parameters:
    assert re.search(rf"^  {parameter}: ", args, re.MULTILINE), (
      f"{name} does not document {parameter}."
    )
  assert f"optax_mtl.{name}(" in doc
  prose = doc.split("\nArgs:\n")[0]
  assert "sum" in prose.lower() or "weights are used as given" in prose, (
    f"The docstring of {name} does not say what its weights sum to."
  )


@every_method
def test_state_is_documented(name):
  """A module-level NamedTuple, so that it pickles; its fields explained."""
  state = harness.build(name).init(harness.params())
  cls = type(state)
  assert getattr(importlib.import_module(cls.__module__), cls.__name__) is cls
  doc = inspect.getdoc(cls)
  for field in cls._fields:
    assert re.search(rf"\b{field}\b", doc), f"{cls.__name__}.{field}"


def test_registering_twice_or_claiming_nonsense():
  with pytest.raises(ValueError, match="claims must be among"):
    _base.method(
      paper="p", url="u", family="gram", weights_sum="1", claims=["is_fast"]
    )
