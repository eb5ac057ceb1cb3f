"""A name that another library has for a method is found."""

import inspect

import pytest

import optax_mtl
from optax_mtl._aliases import ALIASES, explain


def message(name):
  with pytest.raises(AttributeError) as error:
    getattr(optax_mtl, name)
  assert error.value.name == name
  return str(error.value)


@pytest.mark.parametrize("alias", ALIASES)
def test_every_alias_leads_to_a_function(alias):
  """With arguments that it takes, and is no name of our own."""
  assert alias not in vars(optax_mtl)
  for found in ALIASES[alias]:
    inner = found.call.removeprefix("log_losses(")
    function = getattr(optax_mtl, inner.partition("(")[0])
    assert callable(getattr(optax_mtl, found.name))
    for argument in inner.partition("(")[2].split(", "):
      name, equals, _ = argument.partition("=")
      if equals and name.isidentifier():
        assert name in inspect.signature(function).parameters
    assert f"optax_mtl.{found.call}" in message(alias)
    assert found.whose in message(alias)


@pytest.mark.parametrize(
  "name, want",
  [
    ("PCGrad", "Here it is optax_mtl.pcgrad."),
    ("nashmtl", "Here it is optax_mtl.nash_mtl."),
    ("Nash-MTL", "Here it is optax_mtl.nash_mtl."),
    ("config", "optax_mtl.conflict_free(T)"),
    ("uncertainty", "optax_mtl.uncertainty_weighting(T)"),
    ("DWA", "Here it is optax_mtl.dwa."),
    ("AutoLambda", "Here it is optax_mtl.training.auto_lambda."),
    ("SAMO", "Here it is optax_mtl.training.samo."),
    ("uncertainty_weigthing", "Did you mean uncertainty_weighting"),
    ("refresh", "refresh_every"),
    ("zzz", "the keys of optax_mtl.METHODS"),
  ],
)
def test_names(name, want):
  assert want in message(name)


def test_what_python_looks_for_is_not_explained():
  """Names with an underscore are asked for by tools, by the thousand."""
  assert not hasattr(optax_mtl, "__wrapped__")
  assert message("_private") == "optax_mtl has no attribute _private."
  with pytest.raises(ImportError):
    from optax_mtl import PCGrad  # noqa: F401


def test_a_module_is_to_be_imported():
  """It may have been, by another test."""
  names = set(vars(optax_mtl)) - {"plot"}
  assert "from optax_mtl import plot." in explain("plot", names)


def test_a_near_alias_is_offered_too():
  assert "conflict_free(T)" in explain("confg", ["mgda"])
