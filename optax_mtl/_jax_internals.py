"""The one module that touches what JAX does not promise to keep.

Lowering rules, layouts, the mesh axes of a type, jaxprs as data, and
`checkify`: each name is looked up once, and where it is gone or has changed its
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

  @primitive.def_abstract_eval
  def _abstract():
    return ShapedArray((), jnp.bool_)

  @primitive.def_impl
  def _impl():
    # Without a program to lower nothing is known: take the form that is right
    # everywhere.
    return np.bool_(False)

  def lowering(ctx: Any) -> list[Any]:
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
  try:
    from jax.core import Tracer
  except ImportError:
    return not hasattr(value, "addressable_shards")  # of arrays that exist
  return isinstance(value, Tracer)


# --- Programs as data ---------------------------------------------------------

# Calls whose body is looked into: plain ones, and those that rematerialize.
# Custom derivative rules are not: a new body would not be the rule's.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint")


def replace_convolutions(
  fun: Callable[[Any], Any],
  example: Any,
  replacement: Callable[[jax.Array, jax.Array, dict[str, Any]], jax.Array],
) -> Callable[[Any], Any]:
  """The same function of one pytree, with its convolutions replaced.

  The function is traced, the equations of convolutions in it and in the calls
  that it makes are exchanged, and all others stay what they were.

  Args:
    fun: A function of one pytree of arrays that returns a pytree.
    example: A pytree of arrays or `ShapeDtypeStruct`, the argument's shapes.
    replacement: Function from a convolution's operands and parameters to its
      result.

  Returns:
    The new function; `fun` itself where it has no convolution, or where JAX
    does not let a program be rewritten.
  """
  closed, out_shape = jax.make_jaxpr(fun, return_shape=True)(example)
  try:
    from jax.extend.core import jaxpr_as_fun

    rewritten = _replace_in_closed(closed, replacement)
    if rewritten is closed:
      return fun
    run = jaxpr_as_fun(rewritten)
  except (ImportError, AttributeError, TypeError):
    return fun
  structure = jax.tree.structure(out_shape)

  def new(arg: Any) -> Any:
    return jax.tree.unflatten(structure, run(*jax.tree.leaves(arg)))

  return new


def _replace_in_closed(closed: Any, replacement: Any) -> Any:
  """A closed jaxpr with convolutions replaced; the same object if none is."""
  jaxpr = _replace_in(closed.jaxpr, replacement)
  return closed if jaxpr is closed.jaxpr else closed.replace(jaxpr=jaxpr)


def _replace_in(jaxpr: Any, replacement: Any) -> Any:
  eqns = [_replace_eqn(eqn, replacement) for eqn in jaxpr.eqns]
  if all(new is old for new, old in zip(eqns, jaxpr.eqns, strict=True)):
    return jaxpr
  return jaxpr.replace(eqns=eqns)


def _replace_eqn(eqn: Any, replacement: Any) -> Any:
  if eqn.primitive is jax.lax.conv_general_dilated_p:
    # A call with the same operands and results takes the equation's place.
    call = jax.jit(lambda lhs, rhs: replacement(lhs, rhs, eqn.params))
    (new,) = jax.make_jaxpr(call)(*[var.aval for var in eqn.invars]).eqns
    return eqn.replace(
      primitive=new.primitive, params=new.params, effects=new.effects
    )
  if eqn.primitive.name not in _CALLS:
    return eqn
  name = "jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"
  body = eqn.params[name]
  replace = _replace_in_closed if hasattr(body, "consts") else _replace_in
  new = replace(body, replacement)
  if new is body:
    return eqn
  return eqn.replace(params=eqn.params | {name: new})
