"""The problems by name.

Example:
  >>> sorted(PROBLEMS["helmholtz"]().terms)
  ['boundary', 'residual']
"""

from collections.abc import Callable, Mapping

from benchmarks.pinn.problem import Problem
from benchmarks.pinn.problems.advection import advection
from benchmarks.pinn.problems.allen_cahn import allen_cahn
from benchmarks.pinn.problems.burgers import (
  burgers,
  burgers_inverse,
  burgers_published,
)
from benchmarks.pinn.problems.cavity import cavity
from benchmarks.pinn.problems.helmholtz import helmholtz
from benchmarks.pinn.problems.klein_gordon import klein_gordon

#: Name -> the function that builds it.
PROBLEMS: Mapping[str, Callable[[], Problem]] = {
  "helmholtz": helmholtz,
  "burgers": burgers,
  "burgers_published": burgers_published,
  "burgers_inverse": burgers_inverse,
  "klein_gordon": klein_gordon,
  "advection_10": lambda: advection(10.0),
  "advection_30": lambda: advection(30.0),
  "advection": lambda: advection(100.0),
  "allen_cahn": allen_cahn,
  "cavity": cavity,
}
