"""What JAX does not promise to keep is touched here, and in `_jax_programs`.

Lowering rules, layouts, the mesh axes of a type, and `checkify` here, jaxprs as
data there: each name is looked up once, and where it is gone or has changed its
meaning, what stands here falls back on a form that is right and merely slower,
or that says less. A test removes each name and runs what depends on it.
"""

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
  from jax.core import ShapedArray
  from jax.extend.core import Primitive
  from jax.interpreters import mlir

  primitive = Primitive("mtl_is_local")
  constant = mlir.ir_constant
  scalar_bool = ShapedArray((), jnp.bool_)

  @primitive.def_abstract_eval
  def _abstract() -> Any:
    return scalar_bool

  @primitive.def_impl
  def _impl() -> np.bool_:
    # Without a program to lower nothing is known: take the form that is right
    # everywhere.
    return np.bool_(False)

  def lowering(ctx: Any) -> list[Any]:
    # Whatever is not there counts as "several devices".
    where: Any = getattr(ctx.module_context, "axis_context", None)
    if hasattr(where, "manual_axes"):  # inside shard_map
      names = frozenset(where.mesh.axis_names)
      local = where.mesh.size == 1 or frozenset(where.manual_axes) == names
    else:
      local = getattr(where, "num_devices", None) == 1
    return [constant(np.bool_(local))]

  mlir.register_lowering(primitive, lowering)
  return primitive


def type_of(x: jax.Array) -> Any:
  """What JAX knows of an array while tracing."""
  return jax.typeof(x) if hasattr(jax, "typeof") else getattr(x, "aval", None)


def _can_vary() -> bool:
  """Whether loops inside `shard_map` can be given the type they ask for."""
  probe = type_of(jnp.zeros(()))
  return hasattr(jax.lax, "pcast") and (
    hasattr(probe, "mat") or hasattr(probe, "vma")
  )


try:
  _is_local_p = _local_primitive()
except (ImportError, AttributeError):
  _is_local_p = None


def if_local(
  local: Callable[..., Any], otherwise: Callable[..., Any], *args: Any
) -> Any:
  """One of two functions, by where the arrays of the lowered program live.

  Args:
    local: Function of `args`, for a program whose arrays live whole on one
      device, or the body of a `shard_map`. It may hold loops.
    otherwise: Function of `args` that is right everywhere.
    *args: Arrays.

  Returns:
    What the function returns; `otherwise` is taken where it cannot be told, or
    where loops could not be written inside `shard_map`.
  """
  if _is_local_p is None or not _can_vary():
    return otherwise(*args)
  return jax.lax.cond(_is_local_p.bind(), local, otherwise, *args)


def has_explicit_mesh(leaves: Sequence[jax.Array]) -> bool:
  """Whether a leaf's sharding is part of its type."""
  axis_type = getattr(jax.sharding, "AxisType", None)
  if axis_type is None:
    return False  # Then no mesh can be of that kind.
  for leaf in leaves:
    mesh = getattr(getattr(type_of(leaf), "sharding", None), "mesh", None)
    if axis_type.Explicit in (getattr(mesh, "axis_types", None) or ()):
      return True
  return False


def spread_first_axis(leaf: jax.Array) -> Any:
  """The axes of an explicit mesh over which an array's first axis is spread."""
  if not has_explicit_mesh([leaf]):
    return None
  return (*type_of(leaf).sharding.spec, None)[0]


def first(leaf: jax.Array) -> jax.Array:
  """An array's first entry, a scalar, without moving the others."""
  at = (0,) * leaf.ndim
  if not has_explicit_mesh([leaf]):
    return leaf[at]
  # A slice of an axis that is spread is refused; this says where it goes.
  return leaf.at[at].get(out_sharding=jax.sharding.PartitionSpec())


def varying_axes(x: Any) -> frozenset[str]:
  """The mesh axes of a surrounding `shard_map` over which `x` varies."""
  if isinstance(x, jax.ShapeDtypeStruct):
    kind = getattr(x, "manual_axis_type", None)
    return frozenset(getattr(kind, "varying", ()))
  aval = type_of(x)
  # jax 0.10 keeps them in `mat`, earlier versions in `vma`.
  if hasattr(aval, "mat"):
    return frozenset(aval.mat.varying)
  return frozenset(getattr(aval, "vma", ()))


def vary(x: jax.Array, axes: frozenset[str]) -> jax.Array:
  """Marks `x` as varying over `axes`, which loops in `shard_map` ask for."""
  missing = tuple(sorted(axes - varying_axes(x)))
  return jax.lax.pcast(x, missing, to="varying") if missing else x


def vary_in_shard_map(x: jax.Array, axes: frozenset[str]) -> jax.Array:
  """As `vary` over those of the axes that a surrounding `shard_map` has.

  Of other named axes, as those of `vmap`, no type knows.
  """
  get_mesh = getattr(jax.sharding, "get_abstract_mesh", None)
  if get_mesh is None or not hasattr(jax.lax, "pcast"):
    return x
  return vary(x, axes & frozenset(getattr(get_mesh(), "manual_axes", ())))


def like(x: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of an array, and what else its type says of devices.

  That is its sharding on an explicit mesh, and in `shard_map` over what it
  varies.
  """
  shape, dtype = jnp.shape(x), jnp.result_type(x)
  if has_explicit_mesh([x]):
    sharding = type_of(x).sharding
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
  if not varying_axes(x):
    return jax.ShapeDtypeStruct(shape, dtype)
  kind = type_of(x).mat
  return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=kind)


def zeros(like: jax.ShapeDtypeStruct) -> jax.Array:
  """Zeros of a shape and dtype, and of all that `like` says of devices."""
  plain = jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=like.sharding)
  return vary(jnp.zeros_like(plain), varying_axes(like))


def zeros_if_varying(x: Any) -> Any:
  """An array in the place of a `ShapeDtypeStruct` that varies over an axis."""
  if not varying_axes(x) or not isinstance(x, jax.ShapeDtypeStruct):
    return x
  return zeros(x)


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
    from jax.experimental.checkify import debug_check as check
  except ImportError:
    return
  check(condition, message, **values)


def is_traced(value: Any) -> bool:
  """Whether a value is not known while tracing; True if that cannot be told."""
  try:
    from jax.core import Tracer
  except ImportError:
    return isinstance(value, jax.Array)
  return isinstance(value, Tracer)
