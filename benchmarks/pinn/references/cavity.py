"""The lid-driven cavity: the stream function, by Galerkin's method."""

import dataclasses
import functools

import numpy as np

_chebyshev = np.polynomial.chebyshev


def _series(degrees: int, places: np.ndarray, order: int) -> np.ndarray:
  """[len(places), degrees]: what each coefficient adds to a derivative."""
  derived = _chebyshev.chebder(np.eye(degrees), order)
  return _chebyshev.chebvander(places, degrees - 1 - order) @ derived


@dataclasses.dataclass(frozen=True)
class _Line:
  """Polynomials of degree n + 3 by n inner values and what is at the ends.

  Attributes:
    nodes: [n], the inner Chebyshev points of [-1, 1].
    cardinal: [n + 4, n + 4], a column for the Chebyshev coefficients of the
      polynomial with a one in: each inner value, the values at the left and the
      right end, and the slopes there. All else of it is zero.
  """

  nodes: np.ndarray
  cardinal: np.ndarray

  def at(self, places: np.ndarray, order: int) -> np.ndarray:
    """[len(places), n + 4]: a derivative of each of them."""
    return _series(len(self.cardinal), places, order) @ self.cardinal


def _line(n: int) -> _Line:
  nodes = np.cos(np.pi * np.arange(1, n + 1) / (n + 1))
  ends = np.array([-1.0, 1.0])
  conditions = [(nodes, 0), (ends, 0), (ends, 1)]
  rows = [_series(n + 4, places, order) for places, order in conditions]
  return _Line(nodes, np.linalg.inv(np.concatenate(rows)))


# At the upper corners the velocity jumps from 1 at the lid to 0 at the wall.
# The slow flow between two such walls is known (Taylor 1962); what is left
# without it is smooth enough for polynomials. With `a` and `b` the distances
# from wall and lid and `θ` the angle from the lid it is
# `B b + (C a + D b) θ`.
_C = -1 / (1 - np.pi**2 / 4)
_D = _C * np.pi / 2
_B = -_D * np.pi / 2


def _corner(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
  """The flow of one corner and its derivatives along `a` and `b`."""
  squared = a**2 + b**2
  angle = np.arctan2(b, a)
  along_a, along_b = -b / squared, a / squared
  swept = _C * a + _D * b
  crossed = swept * (b**2 - a**2) / squared**2
  return {
    "": _B * b + swept * angle,
    "a": _C * angle + swept * along_a,
    "b": _B + _D * angle + swept * along_b,
    "ab": _C * along_b + _D * along_a + crossed,
    "laplace": 2 * (_C * along_a + _D * along_b),
  }


def _side(sign: int, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
  """The flow of the left (1) or right (-1) corner, on a grid of x and y."""
  flow = _corner((1 + sign * x)[:, None], (1 - y)[None, :])
  return {
    "": flow[""],
    "x": sign * flow["a"],
    "y": -flow["b"],
    "xy": -sign * flow["ab"],
    "laplace": flow["laplace"],
  }


def _at_walls(line: _Line) -> np.ndarray:
  """The stream function without the corners' at the walls, [n + 4, n + 4].

  Rows and columns as in `_Line.cardinal`, zero at the inner points: the whole
  is at rest at the walls but for the lid, and each corner's flow is so at the
  two walls that meet there.
  """
  n = len(line.nodes)
  result = np.zeros((n + 4, n + 4))
  every = np.concatenate([line.nodes, [-1.0, 1.0]])
  for sign, wall in ((1, 1), (-1, 0)):
    # This corner's flow at the opposite wall, and at its corners.
    end = np.array([float(sign)])
    at_wall = _side(sign, end, every)
    corners = slice(n, n + 2)
    result[n + wall, : n + 2] = -at_wall[""][0]
    result[n + wall, n + 2 :] = -at_wall["y"][0, corners]
    result[n + 2 + wall, : n + 2] = -at_wall["x"][0]
    result[n + 2 + wall, n + 2 :] = -at_wall["xy"][0, corners]
    # And at the bottom, where both are.
    at_bottom = _side(sign, line.nodes, np.array([-1.0]))
    result[:n, n] -= at_bottom[""][:, 0]
    result[:n, n + 2] -= at_bottom["y"][:, 0]
  # The lid: two corners' flows have speed 1 each, the whole has 1.
  result[:n, n + 3] = -1
  return result


@dataclasses.dataclass(frozen=True)
class Flow:
  """A steady flow in the unit square.

  Attributes:
    rest: [n + 4, n + 4], the stream function without the corners' flows, in
      coordinates from -1 to 1, by inner values and by what is at the walls. The
      first axis is x, the second y.
    residual: Of the equations, the largest.
  """

  rest: np.ndarray
  residual: float

  def velocity(
    self, x: np.ndarray, y: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Both components on a grid of x and y within [0, 1], [X, Y] each.

    At the upper corners themselves they are not defined, and not finite.
    """
    line = _line(len(self.rest) - 4)
    x, y = (2 * np.asarray(places, np.float64) - 1 for places in (x, y))
    u = line.at(x, 0) @ self.rest @ line.at(y, 1).T
    v = -line.at(x, 1) @ self.rest @ line.at(y, 0).T
    with np.errstate(divide="ignore", invalid="ignore"):
      for sign in (1, -1):
        corner = _side(sign, x, y)
        u, v = u + corner["y"], v - corner["x"]
    return u, v


@functools.lru_cache(maxsize=4)
def flow(reynolds: float = 100.0, n: int = 24) -> Flow:
  """The steady flow under a lid that moves with speed 1.

  `ψ_y ∂_x Δψ - ψ_x ∂_y Δψ = Δ²ψ / R` with `u = ψ_y`, `v = -ψ_x`, both zero at
  the walls but for `u = 1` at the lid. With a polynomial `φ` that vanishes
  there with its slopes, in integrals, `Δψ (ψ_x φ_y - ψ_y φ_x) = Δψ Δφ / R`:
  that is solved by Newton's method from the slow flow.

  Args:
    reynolds: By the side and the lid's speed.
    n: Inner points along a side.

  Returns:
    The flow.
  """
  line = _line(n)
  # Twice as many points as unknowns, for integrands that are singular in the
  # corners.
  places, lengths = np.polynomial.legendre.leggauss(2 * n)
  areas = np.outer(lengths, lengths).reshape(-1, 1)
  full = [line.at(places, order) for order in range(3)]
  corners = [_side(sign, places, places) for sign in (1, -1)]
  # In coordinates of half the length each derivative brings a factor of 2, and
  # the stream function one of 1/2, so that the lid's speed stays 1.
  viscosity = 2 / reynolds

  def operator(x: int, y: int) -> np.ndarray:
    """[points, unknowns]."""
    return np.kron(full[x][:, :n], full[y][:, :n])

  in_x, in_y = operator(1, 0), operator(0, 1)
  laplace = operator(2, 0) + operator(0, 2)
  # Everything that stands left of an integral.
  test_x, test_y, test_laplace = (
    (areas * matrix).T for matrix in (in_x, in_y, laplace)
  )
  rest = _at_walls(line)
  largest = np.inf
  # The slow flow is linear: one step. Then Newton doubles the digits.
  for iteration in range(12):

    def of(x: int, y: int, rest: np.ndarray = rest) -> np.ndarray:
      return (full[x] @ rest @ full[y].T).reshape(-1, 1)

    psi_x, psi_y, vorticity = (
      part + sum(corner[name].reshape(-1, 1) for corner in corners)
      for name, part in (
        ("x", of(1, 0)),
        ("y", of(0, 1)),
        ("laplace", of(2, 0) + of(0, 2)),
      )
    )
    # The corners' own Laplacians are harmonic: `Δφ` does not see them.
    wrong = -viscosity * (test_laplace @ (of(2, 0) + of(0, 2)))
    jacobian = -viscosity * (test_laplace @ laplace)
    if iteration:
      wrong += test_y @ (vorticity * psi_x) - test_x @ (vorticity * psi_y)
      jacobian += test_y @ (psi_x * laplace + vorticity * in_x)
      jacobian -= test_x @ (psi_y * laplace + vorticity * in_y)
    if iteration > 1:
      size = float(np.abs(wrong).max())
      if size >= largest:
        break
      largest = size
    rest = rest.copy()
    rest[:n, :n] -= np.linalg.solve(jacobian, wrong).reshape(n, n)
  return Flow(rest, largest)
