"""What to do where XLA's CPU compiler returns wrong gradients.

jaxlib 0.10.2 miscompiles the batched backward pass of a reduction over a short
last axis (unit vectors, layer norm, RMS norm, ...), on CPU, in silence. The
backward pass of one task is right. So with that version, on CPU, the sources
take one task after another, and say once that a better version exists.
"""

import os
import warnings
from importlib import metadata

import jax

_VERSION = "0.10.2"
_FLAG = "xla_cpu_experimental_ynn_fusion_type"
_REMEDY = f"--{_FLAG}=-reduce"

#: Whether the warning has been given.
_warned = False


def batches_wrongly() -> bool:
  """Whether batched backward passes may come out wrong on CPU."""
  return metadata.version("jaxlib") == _VERSION and _FLAG not in os.environ.get(
    "XLA_FLAGS", ""
  )


def warn_on_cpu() -> None:
  """Warns once, where a source is traced for CPU with such a compiler."""
  global _warned
  if _warned or not batches_wrongly() or jax.default_backend() != "cpu":
    return
  _warned = True
  warnings.warn(
    f"jaxlib {_VERSION} miscompiles batched backward passes on CPU: gradients "
    "through norms over a short last axis are wrong, jax.jacrev's and "
    "jax.vmap(jax.grad)'s too. optax_mtl's sources avoid it by differentiating "
    "one task after another, but what your own code batches stays wrong. "
    f"Install another jaxlib, or set XLA_FLAGS={_REMEDY} before JAX starts.",
    UserWarning,
    stacklevel=3,
  )
