"""Reference solutions: tables and quadratures that others published."""

import numpy as np

from benchmarks.pinn.references import allen_cahn, burgers
from benchmarks.pinn.references import cavity as cavity_flow

#: t, x and u of `burgers_shock.mat`, the table of Raissi, Perdikaris and
#: Karniadakis: places 64, 100, 120, 127, 200, 30 of 256, times of 100.
BURGERS_TABLE = np.array(
  [
    [0.25, -0.4980392156862745, 0.8056619164066212],
    [0.5, -0.21568627450980393, 0.8769223443083046],
    [0.75, -0.05882352941176472, 0.831445332105659],
    [0.99, -0.0039215686274509665, 0.3123187255579597],
    [0.99, 0.5686274509803921, -0.32754238749147424],
    [0.1, -0.7647058823529411, 0.5383508679094962],
  ]
)


def test_burgers_is_the_table_that_everybody_compares_with():
  """`burgers_shock.mat` of Raissi, Perdikaris & Karniadakis."""
  table = BURGERS_TABLE
  found = burgers.solution(table[:, 0], table[:, 1])
  # Both are quadratures in float64, exact to some hundred roundings.
  assert abs(found - table[:, 2]).max() < 1e-10


def test_burgers_is_another_quadrature():
  """The same integrals over the place instead of the Gaussian's argument."""
  nu, t = burgers.VISCOSITY, 0.6
  for x in (-0.9, -0.3, 0.01, 0.5):
    # The trapezoidal rule on a smooth integrand that ends in zeros.
    y = np.linspace(x - 4, x + 4, 40_001)
    exponent = -np.cos(np.pi * y) / (2 * np.pi * nu)
    exponent -= (x - y) ** 2 / (4 * nu * t)
    phi = np.exp(exponent - exponent.max())
    expected = -(np.sin(np.pi * y) * phi).sum() / phi.sum()
    found = burgers.solution(np.array(t), np.array(x))
    assert abs(found - expected) < 1e-10


def test_allen_cahn_does_not_depend_on_modes_and_steps():
  """Half the modes and fewer steps, which is how far the reference can be off.

  Of fourth order in the steps: 400 instead of 1000 are 39 times worse. The kink
  at the walls makes modes count at the first times alone.
  """
  places = np.linspace(-1, 1, 101)
  found = allen_cahn.solution(101, places)
  coarse = allen_cahn.solution(101, places, modes=1024, steps=400)
  assert abs(found - coarse).max() < 39 * 1e-10


def test_allen_cahn_is_the_table_that_everybody_compares_with():
  """`AC.mat` of Raissi, Perdikaris and Karniadakis, itself good to 2e-6."""
  table = {
    -1.0: -0.9999988894533967,
    -0.75: -0.9998772428519339,
    -0.5: -0.06407762203955703,
    -0.21875: 0.9836443286244515,
    0.0: 0.02957972234920425,
    0.25: 0.9884746503209177,
  }
  found = allen_cahn.solution(101, np.array(list(table)))[-1]
  assert abs(found - list(table.values())).max() < 2e-6


def test_cavity_has_the_extremes_of_botella_and_peyret():
  """Computers & Fluids 1998, Table 9: Reynolds number 100."""
  flow = cavity_flow.flow(100.0)
  line, middle = np.linspace(0, 1, 2001), np.array([0.5])
  u = flow.velocity(middle, line)[0][0]
  v = flow.velocity(line, middle)[1][:, 0]
  found = [u.min(), v.max(), v.min()]
  places = [line[u.argmin()], line[v.argmax()], line[v.argmin()]]
  # They give seven digits. Here what is left of the corners' singularity limits
  # them: from 20 to 24 to 28 inner points these change by 4e-5 and by 2e-5.
  np.testing.assert_allclose(
    found, [-0.2140424, 0.1795728, -0.2538030], atol=4e-5
  )
  # The places are given to four digits, the line has steps of 5e-4.
  np.testing.assert_allclose(places, [0.4581, 0.2370, 0.8104], atol=5e-4)
