"""Updates from the gradients themselves, where there are no weights."""

from optax_mtl.methods.gradients.bloop import bloop as bloop
from optax_mtl.methods.gradients.m_config import m_config as m_config
