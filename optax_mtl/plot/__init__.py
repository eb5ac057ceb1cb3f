"""Pictures of multi-task training; matplotlib is imported only when called.

* `training`: losses and weights over the steps.
* `trade_offs`: two tasks against each other, and Pareto fronts.
* `convergence`: how fast solvers arrive.
* `diagnosis`: what `optax_mtl.diagnose` found.
* `diagnostics`: what was logged of `optax_mtl.diagnostics`.

Every function returns a `matplotlib.figure.Figure` and touches neither pyplot
nor its settings: save it with `figure.savefig("name.png")`, or return it from a
notebook cell.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. There
are seven, so line styles or markers tell further methods apart; legends stand
outside the axes.
"""

from optax_mtl.plot.convergence import gap_curves as gap_curves
from optax_mtl.plot.diagnosis import diagnosis as diagnosis
from optax_mtl.plot.diagnostics import diagnostics as diagnostics
from optax_mtl.plot.trade_offs import front as front
from optax_mtl.plot.trade_offs import trade_off as trade_off
from optax_mtl.plot.training import learning_curves as learning_curves
from optax_mtl.plot.training import weights_over_time as weights_over_time
