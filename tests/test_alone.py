"""Processes that share a compilation cache do not fail one another."""

import tomllib

import pytest
from alone import ROOT, printed_by

PROGRAM = """
import jax, jax.numpy as jnp, sys, warnings
assert jnp.sum(jnp.arange(5.0)) == 10
if sys.argv[1:]:
  warnings.warn("another warning")
"""


def test_half_of_an_entry_is_compiled_again(tmp_path):
  cache = {
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  printed_by("-c", PROGRAM, **cache)
  entries = list(tmp_path.glob("*-cache"))
  assert entries
  for path in entries:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  printed_by("-c", PROGRAM, **cache)
  with pytest.raises(AssertionError, match="another warning"):
    printed_by("-c", PROGRAM, "warn", **cache)


def test_the_tests_own_processes_let_the_same_pass():
  with open(ROOT / "pyproject.toml", "rb") as file:
    tools = tomllib.load(file)["tool"]
  kept, *passed = tools["pytest"]["ini_options"]["filterwarnings"]
  assert kept == "error"
  assert passed == [
    "ignore:Error reading persistent compilation cache entry:UserWarning"
  ]
