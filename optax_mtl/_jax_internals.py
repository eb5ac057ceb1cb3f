"""The one module that touches what JAX does not promise to keep.

Lowering rules, layouts, the mesh axes of a type, jaxprs as data, and
`checkify`: each name is looked up once, and where it is gone or has changed its
meaning, what stands here falls back on a form that is right and merely slower,
or that says less. A test removes each name and runs what depends on it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# --- Where a program's arrays live ------------------------------------------
#
# A boolean that is True where the arrays of the program being lowered live
# whole on one device: a program for one device, or the body of a `shard_map`.
# It takes no inputs, hence needs no rules for vmap or differentiation.


def _local_primitive() -> Any:
  from jax.extend.core import Primitive
  from jax.interpreters import mlir

  primitive = Primitive("mtl_is_local")

  @primitive.def_abstract_eval
  def _abstract():
    return jax.core.ShapedArray((), jnp.bool_)

  @primitive.def_impl
  def _impl():
    # Without a program to lower nothing is known: take the form that is right
    # everywhere.
    return np.bool_(False)

  def lowering(ctx):
    where = ctx.module_context.axis_context
    if hasattr(where, "manual_axes"):  # inside shard_map
      names = frozenset(where.mesh.axis_names)
      local = where.mesh.size == 1 or frozenset(where.manual_axes) == names
    else:
      local = getattr(where, "num_devices", None) == 1
    return [mlir.ir_constant(np.bool_(local))]

  mlir.register_lowering(primitive, lowering)
  return primitive


try:
  _is_local_p = _local_primitive()
except (ImportError, AttributeError):
  _is_local_p = None


def is_local() -> jax.Array:
  """Whether the arrays of the program being lowered live on one device.

  Returns:
    A scalar bool, a constant of the lowered program. False where that cannot be
    told.
  """
  if _is_local_p is None:
    return jnp.zeros((), jnp.bool_)
  return _is_local_p.bind()


def has_explicit_mesh(leaves: Sequence[jax.Array]) -> bool:
  """Whether a leaf's sharding is part of its type."""
  explicit = jax.sharding.AxisType.Explicit
  return any(
    explicit in jax.typeof(leaf).sharding.mesh.axis_types for leaf in leaves
  )


def varying_axes(x: jax.Array) -> frozenset[str]:
  """The mesh axes of a surrounding `shard_map` over which `x` varies."""
  aval = jax.typeof(x)
  # jax 0.10 keeps them in `mat`, earlier versions in `vma`.
  if hasattr(aval, "mat"):
    return frozenset(aval.mat.varying)
  return frozenset(getattr(aval, "vma", ()))


def vary(x: jax.Array, axes: frozenset[str]) -> jax.Array:
  """Marks `x` as varying over `axes`, which loops in `shard_map` ask for."""
  missing = tuple(sorted(axes - varying_axes(x)))
  return jax.lax.pcast(x, missing, to="varying") if missing else x


# --- Layouts ----------------------------------------------------------------


def column_major(gram: jax.Array) -> jax.Array:
  """The same matrix [T, T], laid out by rows before a solver reads it.

  A solver that calls LAPACK wants its matrix by columns, and XLA's CPU backend
  would pass that wish on to the products that the Gram matrix is made of, which
  then take three times as long. This keeps the wish from them.
  """
  try:
    from jax.experimental.layout import Layout, with_layout_constraint

    return with_layout_constraint(gram, Layout(major_to_minor=(0, 1)))
  except (ImportError, AttributeError, TypeError):
    return gram


# --- Checks at run time ------------------------------------------------------


def debug_check(condition: jax.Array, message: str, **values: Any) -> None:
  """`checkify.debug_check`, or nothing where that is gone."""
  try:
    from jax.experimental import checkify
  except ImportError:
    return
  checkify.debug_check(condition, message, **values)


def is_traced(value: Any) -> bool:
  """Whether a value is not known while tracing."""
  tracer = getattr(jax.core, "Tracer", None)
  return tracer is not None and isinstance(value, tracer)
