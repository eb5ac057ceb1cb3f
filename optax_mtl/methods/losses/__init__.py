"""Weights from the losses, or from other numbers a task: one backward pass."""

from optax_mtl.methods.losses.dtp import dtp as dtp
from optax_mtl.methods.losses.dwa import dwa as dwa
from optax_mtl.methods.losses.equal_weighting import (
  equal_weighting as equal_weighting,
)
from optax_mtl.methods.losses.famo import famo as famo
from optax_mtl.methods.losses.fixed_weighting import (
  fixed_weighting as fixed_weighting,
)
from optax_mtl.methods.losses.gls import gls as gls
from optax_mtl.methods.losses.go4align import go4align as go4align
from optax_mtl.methods.losses.igb import igb as igb
from optax_mtl.methods.losses.imtl_l import imtl_l as imtl_l
from optax_mtl.methods.losses.ldc_mtl import ldc_mtl as ldc_mtl
from optax_mtl.methods.losses.ntk_weighting import (
  ntk_weighting as ntk_weighting,
)
from optax_mtl.methods.losses.relobralo import relobralo as relobralo
from optax_mtl.methods.losses.rlw import rlw as rlw
from optax_mtl.methods.losses.scale_invariant import (
  scale_invariant as scale_invariant,
)
from optax_mtl.methods.losses.softadapt import softadapt as softadapt
from optax_mtl.methods.losses.stch import stch as stch
from optax_mtl.methods.losses.uncertainty_weighting import (
  uncertainty_loss as uncertainty_loss,
)
from optax_mtl.methods.losses.uncertainty_weighting import (
  uncertainty_weighting as uncertainty_weighting,
)
from optax_mtl.methods.losses.uw_so import uw_so as uw_so
