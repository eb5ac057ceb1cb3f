"""The methods, one file each; those that take a preference are in `pareto`."""

from optax_mtl.methods.dtp import DtpState, dtp
from optax_mtl.methods.dwa import DwaState, dwa
from optax_mtl.methods.equal import EqualWeightingState, equal_weighting
from optax_mtl.methods.fixed import FixedWeightingState, fixed_weighting
from optax_mtl.methods.gradnorm import GradNormState, gradnorm
from optax_mtl.methods.mgda import MgdaState, mgda
from optax_mtl.methods.uncertainty import (
  UncertaintyWeightingState,
  uncertainty_loss,
  uncertainty_weighting,
)

__all__ = [
  "DtpState",
  "DwaState",
  "EqualWeightingState",
  "FixedWeightingState",
  "GradNormState",
  "MgdaState",
  "UncertaintyWeightingState",
  "dtp",
  "dwa",
  "equal_weighting",
  "fixed_weighting",
  "gradnorm",
  "mgda",
  "uncertainty_loss",
  "uncertainty_weighting",
]
