"""Allen and Cahn's equation by cosine series and exponential time steps."""

import functools

import numpy as np

#: Of the problem that everybody solves.
DIFFUSION, REACTION = 1e-4, 5.0


def first_coefficients(modes: int) -> np.ndarray:
  """Of the cosine series of `x² cos(πx)` on [-1, 1], [modes], exactly.

  The function is even, so `Σ a_m cos(mπx)`. Its odd slope at the walls makes
  `a_m` fall like `1/m²`, which sampling at any number of points would alias.
  """
  m = np.arange(modes)

  def moment(p: np.ndarray) -> np.ndarray:
    """`∫ x² cos(pπx) dx` over [-1, 1]."""
    safe = np.where(p == 0, 1, p)
    away = 4 * np.cos(np.pi * p) / (np.pi * safe) ** 2
    return np.where(p == 0, 2 / 3, away)

  coefficients = (moment(m + 1) + moment(m - 1)) / 2
  coefficients[0] /= 2
  return coefficients


def _cube(coefficients: np.ndarray) -> np.ndarray:
  """Coefficients of the cube of a cosine series, those that it has itself."""
  modes = len(coefficients)
  # A cube has three times the modes: with twice as many points none of those
  # that fold back reach the ones that are kept.
  size = 4 * modes
  spectrum = np.zeros(size // 2 + 1)
  spectrum[:modes] = coefficients / 2
  spectrum[0] = coefficients[0]
  values = np.fft.irfft(spectrum * size, size)
  result = np.fft.rfft(values**3).real[:modes] * (2 / size)
  result[0] /= 2
  return result


def _phis(z: np.ndarray) -> tuple[np.ndarray, ...]:
  """`φ_k(z) = (φ_{k-1}(z) - 1/(k-1)!) / z`, k = 1, 2, 3.

  Means over a circle around `z`, as Kassam and Trefethen do: the formula itself
  cancels near zero.
  """
  circle = z[:, None] + np.exp(2j * np.pi * (np.arange(32) + 0.5) / 32)
  first = (np.exp(circle) - 1) / circle
  second = (first - 1) / circle
  third = (second - 0.5) / circle
  return tuple(phi.mean(axis=1).real for phi in (first, second, third))


@functools.lru_cache(maxsize=4)
def coefficients(
  num_times: int, modes: int = 2048, steps: int = 1000
) -> np.ndarray:
  """`u_t = 1e-4 u_xx - 5u³ + 5u` from `x² cos(πx)`, periodic on [-1, 1].

  The linear part, with the growth, is solved exactly, the cube by the
  fourth-order scheme of Cox and Matthews.

  Args:
    num_times: Evenly spaced, 0 and 1 among them; `steps` must be a multiple of
      one less.
    modes: Of the cosine series.
    steps: Of equal length.

  Returns:
    Array [num_times, modes], float64.

  Raises:
    ValueError: The steps do not meet the times.
  """
  if steps % (num_times - 1):
    raise ValueError(f"{steps} steps do not meet {num_times} times.")
  step = 1 / steps
  linear = REACTION - DIFFUSION * (np.pi * np.arange(modes)) ** 2
  half, whole = np.exp(step * linear / 2), np.exp(step * linear)
  to_half = step / 2 * _phis(step * linear / 2)[0]
  one, two, three = _phis(step * linear)
  first, middle, last = (
    step * weight
    for weight in (
      one - 3 * two + 4 * three,
      2 * two - 4 * three,
      4 * three - two,
    )
  )

  def cubic(v: np.ndarray) -> np.ndarray:
    return -REACTION * _cube(v)

  v = first_coefficients(modes)
  kept = [v]
  for index in range(1, steps + 1):
    at_v = cubic(v)
    a = half * v + to_half * at_v
    at_a = cubic(a)
    at_b = cubic(half * v + to_half * at_a)
    at_c = cubic(half * a + to_half * (2 * at_b - at_v))
    v = whole * v + first * at_v + middle * (at_a + at_b) + last * at_c
    if index % (steps // (num_times - 1)) == 0:
      kept.append(v)
  return np.stack(kept)


def solution(
  num_times: int, places: np.ndarray, modes: int = 2048, steps: int = 1000
) -> np.ndarray:
  """Values [num_times, len(places)] at evenly spaced times from 0 to 1.

  Args:
    num_times: As for `coefficients`.
    places: [N], within [-1, 1].
    modes: Of the cosine series.
    steps: In time.

  Returns:
    The values, float64; those at time 0 are exact.
  """
  places = np.asarray(places, np.float64)
  waves = np.cos(np.pi * np.outer(np.arange(modes), places))
  values = coefficients(num_times, modes, steps) @ waves
  # The series itself converges slowly there.
  values[0] = places**2 * np.cos(np.pi * places)
  return values
