"""Updates from the gradients themselves, where there are no weights."""

from optax_mtl.methods.gradients.bloop import bloop as bloop
from optax_mtl.methods.gradients.db_mtl import db_mtl as db_mtl
from optax_mtl.methods.gradients.excess_mtl import excess_mtl as excess_mtl
from optax_mtl.methods.gradients.graddrop import graddrop as graddrop
from optax_mtl.methods.gradients.m_config import m_config as m_config
from optax_mtl.methods.gradients.median import median as median
from optax_mtl.methods.gradients.moco import moco as moco
from optax_mtl.methods.gradients.trimmed_mean import (
  trimmed_mean as trimmed_mean,
)
