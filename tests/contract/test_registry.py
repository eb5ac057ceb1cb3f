"""One file, one line in a room, one row per method."""

import importlib
import inspect
import pkgutil
import re

import harness
import pytest

import optax_mtl
import optax_mtl.methods
import optax_mtl.pareto
from optax_mtl import _registry

every_method = pytest.mark.parametrize("name", harness.NAMES)
#: The folders of `methods`: what a method's rule reads.
ROOMS = {"losses", "gram", "gradients", "preference"}


def method_files():
  """Module name of each file that ought to hold a method."""
  package = optax_mtl.methods
  for module in pkgutil.walk_packages(package.__path__, "optax_mtl.methods."):
    if not module.ispkg and not module.name.split(".")[-1].startswith("_"):
      yield module.name


@pytest.mark.parametrize("module", list(method_files()))
def test_one_file_one_row(module):
  importlib.import_module(module)
  rows = [n for n, f in _registry.METHODS.items() if f.__module__ == module]
  name = module.split(".")[-1]
  assert rows == [name], (
    f"{module} registers {rows}, and must register {name} alone: put "
    "@method(...) on the function. A file that holds helpers starts with an "
    "underscore."
  )
  assert name in harness.PACKAGE, (
    f"{module} is never imported: add `from {module} import {name} as {name}` "
    "to the room's __init__.py."
  )


@every_method
def test_exported(name):
  function = optax_mtl.METHODS[name]
  room = importlib.import_module(f"optax_mtl.methods.{function.info.room}")
  assert function.__name__ == name
  assert getattr(optax_mtl, name) is getattr(room, name) is function
  assert function.__module__ == f"{room.__name__}.{name}"


def test_the_registry_is_read_only():
  with pytest.raises(TypeError):
    optax_mtl.METHODS["mine"] = None


@every_method
def test_metadata(name):
  info = optax_mtl.METHODS[name].info
  assert isinstance(info, optax_mtl.MethodInfo)
  assert info.name == name
  assert info.room in ROOMS
  assert info.paper and info.weights_sum
  assert re.match(r"https://", info.url)
  assert info.claims <= set(_registry.CLAIMS)
  # What a claim implies, so that no test is missed.
  if "simplex" in info.claims:
    assert "positive_weights" in info.claims


def test_every_claim_is_tested_on_some_method():
  claimed = frozenset().union(*map(harness.claims, harness.NAMES))
  assert claimed == set(_registry.CLAIMS)


@every_method
def test_reference(name):
  assert name in harness.REFERENCES, (
    f"No reference for {name}: write one beside the others, from the paper."
  )


def test_every_reference_has_a_method():
  unknown = set(harness.REFERENCES) - set(harness.NAMES)
  assert not unknown


@every_method
def test_signature(name):
  """`num_tasks` first, and the paper's own arguments; a method comes back."""
  function = optax_mtl.METHODS[name]
  signature = inspect.signature(function)
  parameters = signature.parameters
  assert next(iter(parameters)) == "num_tasks"
  assert parameters["num_tasks"].default is inspect.Parameter.empty
  assert signature.return_annotation is optax_mtl.Method
  for parameter in parameters.values():
    assert parameter.annotation is not inspect.Parameter.empty
    assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
  # What is said to a source or to a wrapper is no argument of a method.
  assert not {"shared", "heads", "on_nonfinite"} & set(parameters)


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


def documented_fields(value):
  """Checks the NamedTuples of the package in a state, and goes into them."""
  cls = type(value)
  if not isinstance(value, tuple) or not hasattr(cls, "_fields"):
    return
  # At the top of a module, so that it pickles.
  assert getattr(importlib.import_module(cls.__module__), cls.__name__) is cls
  if cls.__module__.startswith("optax_mtl"):
    for field in cls._fields:
      assert re.search(rf"\b{field}\b", inspect.getdoc(cls)), (
        f"{cls.__name__}.{field}"
      )
  for member in value:
    documented_fields(member)


@every_method
def test_state_is_documented(name):
  """The weights stand beside what the rule remembers, which has no other."""
  state = harness.build(name).init(harness.params())
  documented_fields(state)
  if not harness.weighs(name):
    assert type(state).__module__ == optax_mtl.METHODS[name].__module__
    return
  assert type(state) is optax_mtl.WeightState
  assert "weights" not in getattr(type(state.memory), "_fields", ())


# The decorator.
def rule(num_tasks, power: float = 1.0):
  """Every task alike."""
  del num_tasks
  return optax_mtl.from_step(lambda step: step.active * power)


def test_the_decorator_changes_the_return_type_alone():
  function = harness.registered(rule, claims=["positive_weights"])
  assert function.__name__ == "rule" and function.__doc__ == rule.__doc__
  parameters = inspect.signature(function).parameters
  assert parameters == inspect.signature(rule).parameters
  assert isinstance(function(2), optax_mtl.Method)
  assert isinstance(function(num_tasks=2, power=2.0), optax_mtl.Method)
  assert function.info.claims == {"positive_weights"}
  assert function.info.example((0, 1)) == {}
  with pytest.raises(TypeError, match=r"rule\(\) got an unexpected keyword"):
    function(2, shared=True)


def test_what_the_decorator_refuses():
  with pytest.raises(ValueError, match="claims must be among"):
    harness.registered(rule, claims=["is_fast"])
  with pytest.raises(ValueError, match="first argument of the method .* must"):
    harness.registered(lambda tasks: rule(tasks))

  def mgda(num_tasks):
    return rule(num_tasks)

  with pytest.raises(ValueError, match="a method mgda already, in optax_mtl"):
    harness.registered(mgda)


def test_a_module_may_be_loaded_again():
  """A notebook's cell that is run again registers its method again."""
  harness.registered(rule)
  again = harness.registered(rule)
  assert optax_mtl.METHODS["rule"] is again
