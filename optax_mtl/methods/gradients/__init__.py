"""Updates from the gradients themselves, where there are no weights."""

from optax_mtl.methods.gradients.bloop import bloop as bloop
